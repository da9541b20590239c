"""Hostile files, given to the real commands: nothing of them runs, all are named and refused."""

import os
import pathlib
import re
import sys

import children
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(module: str, arguments: list[str]) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "XLA_FLAGS": children.one_device(),
    }
    command = [sys.executable, "-m", module, *arguments]
    result = children.run(command, limit=500, cwd=ROOT, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize(
    ("groups", "least"),
    [
        (["weights", "images", "sources", "sweeps"], 33),
        pytest.param(["folders", "checkpoints", "datasets"], 20, marks=pytest.mark.slow),
    ],
)
def test_hostile_files_are_refused(groups, least):
    output = run("hostile", groups)
    (found,) = re.findall(r"([0-9]+) hostile files, 0 failed", output)
    assert int(found) >= least


@pytest.mark.parametrize(
    ("parts", "least"),
    [
        (["images"], 60),
        pytest.param(["folders"], 40, marks=pytest.mark.slow),
        pytest.param(["memory"], 9, marks=pytest.mark.slow),
    ],
)
def test_odd_images_and_folders_are_read_alike(parts, least):
    output = run("hostile.agreement", parts)
    (found,) = re.findall(r"([0-9]+) odd images and folders, 0 failed", output)
    assert int(found) >= least
