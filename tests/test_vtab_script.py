"""scripts/vtab.py from the command line: what it refuses, and all 19 tasks in miniature."""

import csv
import os
import pathlib
import re
import subprocess
import sys
import time

import absl.flags
import pytest
from PIL import Image

from mixer.data.vtab import TASKS
from mixer.vtab.report import read_summary

ROOT = pathlib.Path(__file__).parent.parent


def vtab(*flags: str, cwd: pathlib.Path, timeout: int = 120) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "vtab.py"), *flags],
        cwd=cwd,
        env={**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},  # one device
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--miniature", "--tasks=cifar10"], "Unknown VTAB-1k task 'cifar10'. Expected"),
        (["--workdir=gs://b/w", "--miniature"], "to be a local folder; got 'gs://b/w'"),
        ([], "Expected either --weights or --miniature"),
        (["--weights=nowhere.npz"], "nowhere.npz"),
        (["--protocol=section_4", "--miniature"], "section_4"),
        (
            [f"--weights={ROOT}/tests/golden/mixer_tiny.npz", "--data_dir=none", "--tasks=dtd"],
            "Expected the data of at least one of 1 tasks; got none. The first, dtd: Expec",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_and_nothing_is_written(
    flags, message, tmp_path, call, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, absl.flags.Error), match=re.escape(message)):
        call("vtab.py", "--workdir=w", *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_19_tasks_in_miniature_within_eight_minutes(tmp_path):
    start = time.monotonic()
    result = vtab("--workdir=w", "--miniature", cwd=tmp_path, timeout=1800)
    seconds = time.monotonic() - start
    assert result.returncode == 0, result.stderr
    assert "19 tasks, 0 done, 76 runs to do." in result.stdout
    summary = read_summary(tmp_path / "w")
    assert {row["state"] for row in summary["tasks"].values()} == {"done"}
    assert (summary["done"], len(summary["mean_of_seeds"])) == (19, 2)
    scores = [row["mean"] for row in summary["tasks"].values()]
    assert summary["mean"] == pytest.approx(sum(scores) / 19)
    assert 0 < summary["mean"] < 0.5  # random images
    with (tmp_path / "w" / "vtab.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(TASKS) + 4
    with Image.open(tmp_path / "w" / "vtab.png") as picture:
        assert picture.size == (800, 700)
    again = vtab("--workdir=w", "--miniature", cwd=tmp_path)
    assert again.returncode == 0
    assert "19 tasks, 19 done, 0 runs to do." in again.stdout
    assert read_summary(tmp_path / "w") == summary
    assert seconds < 8 * 60
