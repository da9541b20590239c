"""A user's run through the command line: it learns, is killed, resumes, and has the same bits."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mixer.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent


def command(workdir: pathlib.Path, data_dir: str, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mixer.main", "--config=configs/digits.py"),
        *(f"--workdir={workdir}", f"--config.data_dir={data_dir}", *overrides),
    ]


def environment() -> dict[str, str]:
    """Returns the environment of a user: one CPU device, not the tests' eight."""
    return {**os.environ, "XLA_FLAGS": ""}


def losses(workdir: pathlib.Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(workdir) if "loss" in line}


def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path, data_dir):
    overrides = ["--config.num_epochs=6.0", "--config.log_every=5", "--config.checkpoint_every=20"]
    overrides += ["--config.eval_every=1000"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole, data_dir, *overrides), cwd=ROOT, env=environment(), check=True)
    process = subprocess.Popen(command(killed, data_dir, *overrides), cwd=ROOT, env=environment())
    deadline = time.monotonic() + 120
    while not (losses(killed) and max(losses(killed)) >= 45) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 45 <= max(losses(killed)) < 134, "killed in the middle"
    resumed = subprocess.run(
        command(killed, data_dir, *overrides),
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert "Resuming" in resumed.stdout
    assert losses(killed) == losses(whole)
    assert max(losses(whole)) == 134
    results = [read_metrics(workdir)[-1] for workdir in (whole, killed)]
    assert results[0] == results[1]


@pytest.mark.slow
def test_the_quick_start_reaches_its_accuracy(tmp_path, data_dir):
    subprocess.run(command(tmp_path, data_dir), cwd=ROOT, env=environment(), check=True)
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
    )
    assert read_metrics(finetuned)[-1]["test/top1"] >= 0.95
