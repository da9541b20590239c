"""Where a number comes from: the devices, the versions, the commit and the day."""

import datetime
import functools
import json
import pathlib
import subprocess
from typing import Any

import jax
from etils import epath

from mixer.runtime.naming import naming
from mixer.shipped import is_installed

FILE_NAME = "environment.json"


def environment() -> dict[str, Any]:
    """Returns `hardware`, `jax`, `commit` ("" outside a repository) and `date` as JSON holds it."""
    return {
        "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
    }


def write_environment(workdir: epath.Path) -> None:
    """Writes `environment.json` of a run that begins or goes on now."""
    path = workdir / FILE_NAME
    with naming(path):
        path.write_text(json.dumps(environment(), indent=2) + "\n")


@functools.cache
def _commit() -> str:
    """Returns the commit of this code, with "-dirty" if files are changed."""
    if is_installed():
        return ""  # a repository around it would be another one
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()
