"""A user's run through the command line: killed and stopped it keeps its bits; it learns."""

import os
import pathlib
import subprocess
import sys

import pytest
from children import one_device, run

from mixer.reporting.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent


def command(workdir: pathlib.Path, data_dir: str, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mixer.main", "--config=configs/digits.py"),
        *(f"--workdir={workdir}", f"--config.data_dir={data_dir}", *overrides),
    ]


def environment() -> dict[str, str]:
    """Returns the environment of a user: one CPU device, not the tests' eight."""
    return {**os.environ, "XLA_FLAGS": one_device()}


def torture(*parts: str, limit: float) -> None:
    """Does what scripts/torture.sh does; every row of its table must be as required."""
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "torture", *parts]
    result = run(command, limit=limit, cwd=ROOT, env={**environment(), **path})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout


@pytest.mark.slow  # among the fast tests: tests/runtime/test_preemption.py
def test_a_run_that_is_killed_three_times_and_stopped_goes_on_with_the_same_bits():
    torture("forks=3", limit=1200)


@pytest.mark.slow
def test_the_quick_start_reaches_its_accuracy(tmp_path, data_dir):
    subprocess.run(
        command(tmp_path, data_dir), cwd=ROOT, env=environment(), check=True, timeout=600
    )
    final: dict[str, float] = {}
    for line in read_metrics(tmp_path):
        final |= line
    assert final["test/count"] == 364
    assert final["test/top1"] >= 0.97
    assert final["train_seconds"] <= 60
    finetuned = tmp_path / "finetuned"
    subprocess.run(
        [
            *(sys.executable, "-m", "mixer.main", "--config=configs/finetune.py:Ti/4,digits,32"),
            *(f"--config.init_from={tmp_path}", f"--workdir={finetuned}"),
            f"--config.data_dir={data_dir}",
        ],
        cwd=ROOT,
        env=environment(),
        check=True,
        timeout=600,
    )
    assert read_metrics(finetuned)[-1]["test/top1"] >= 0.95


@pytest.mark.slow
def test_the_short_parts_of_the_torture():
    torture("kills=3", "signals", "processes", limit=3000)
