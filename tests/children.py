"""Programs that tests start."""

import functools
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

import pytest


def one_device() -> str:
    """Returns the XLA_FLAGS of a program with one CPU device, as a user has, not the tests' eight.

    It compiles as the test that starts it does: of a flag that is there twice, the last counts.
    """
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1".strip()


def run(
    command: Sequence[object], *, limit: float = 300, **options: Any
) -> subprocess.CompletedProcess:
    """Runs a program to its end, its output captured as text.

    After `limit` seconds it is killed with all that it has started, and the test fails with what
    it has printed.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen([*map(os.fspath, command)], start_new_session=True, **options) as process:
        try:
            shown = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            shown = process.communicate()
            pytest.fail(f"{command} has not ended in {limit} s. It has printed:\n{shown}")
    return subprocess.CompletedProcess(process.args, process.returncode, *shown)


def read_line(process: subprocess.Popen, limit: float = 120) -> Any:
    """Returns the next line of a program's output, which is empty if the program has ended.

    After `limit` seconds without a line it is killed, and so is what it has started if it has a
    session of its own.
    """
    assert process.stdout is not None
    is_leader = os.getpgid(process.pid) == process.pid
    kill = functools.partial(os.killpg, process.pid, signal.SIGKILL) if is_leader else process.kill
    killer = threading.Timer(limit, kill)
    killer.start()
    try:
        return process.stdout.readline()
    finally:
        killer.cancel()
