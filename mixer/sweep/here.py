"""Trains in this process, which keeps what is imported and compiled."""

import contextlib
import pathlib
import traceback
from typing import Any

from etils import epath

from mixer.reporting.reports import Reports
from mixer.runtime.preemption import Preempted
from mixer.train_loop import train


def train_here(config: Any, folder: pathlib.Path, log: pathlib.Path) -> int:
    """Trains a ConfigDict in a folder, with its output in a log; returns an exit code.

    Raises:
      KeyboardInterrupt: the run was stopped, and has been saved.
    """
    with (
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            train(config, epath.Path(folder), reports=Reports(pictures=False))
        except Preempted:
            raise KeyboardInterrupt from None
        except Exception:
            traceback.print_exc()
            return 1
    return 0
