"""Hostile files, given to the real commands: nothing of them runs, all are named and refused."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("groups", "least"),
    [
        (["weights", "images", "sources", "sweeps"], 33),
        pytest.param(["folders", "checkpoints", "datasets"], 20, marks=pytest.mark.slow),
    ],
)
def test_hostile_files_are_refused(groups, least):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "XLA_FLAGS": "",  # one device, as a user has
    }
    result = subprocess.run(
        [sys.executable, "-m", "hostile", *groups],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    (found,) = re.findall(r"([0-9]+) hostile files, 0 failed", result.stdout)
    assert int(found) >= least
