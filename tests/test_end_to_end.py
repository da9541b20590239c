"""A user's run through the command line: killed and stopped it keeps its bits; it learns."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torture.runs import hash_of_state, lines, losses

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


def start(workdir: pathlib.Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(workdir, *arguments), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen, code: int) -> str:
    """Waits for the end; returns what the process has shown."""
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == code
    return shown


def wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while max(losses(workdir), default=0) < step:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_is_killed_and_stopped_goes_on_with_the_same_bits(tmp_path, data_dir):
    arguments = [data_dir, "--config.num_epochs=6.0", "--config.log_every=5"]
    arguments += ["--config.checkpoint_every=20", "--config.eval_every=1000"]
    arguments += [f"--compilation_cache={tmp_path / 'xla'}"]
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    end(start(whole, *arguments), 0)

    process = start(disturbed, *arguments)
    wait_for_step(process, disturbed, 45)
    process.kill()
    end(process, -signal.SIGKILL)
    seen = losses(disturbed)  # of steps that come again, too
    assert 45 <= max(seen) < 134, "killed in the middle"

    process = start(disturbed, *arguments)
    wait_for_step(process, disturbed, max(seen) + 10)
    process.terminate()
    shown = end(process, 0)
    (stopped_at,) = re.findall("SIGTERM: saving step ([0-9]+), then ending", shown)
    assert os.listdir(disturbed / "checkpoints").count(stopped_at) == 1
    assert f"step {int(stopped_at) // 5 * 5}/134 | loss" in shown, "every step is reported"
    seen |= losses(disturbed)

    shown = end(start(disturbed, *arguments), 0)
    assert f"Resuming {disturbed} at step {stopped_at}." in shown
    assert lines(disturbed) == lines(whole), "every interval once"
    assert seen.items() <= losses(whole).items()
    assert max(losses(whole)) == 134
    assert hash_of_state(whole) == hash_of_state(disturbed)
    assert steps_in_tensorboard(disturbed) >= set(losses(whole))


def steps_in_tensorboard(workdir: pathlib.Path) -> set[int]:
    return {
        event.step
        for path in workdir.glob("events.out.tfevents.*")
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "loss"
    }


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


@pytest.mark.slow
def test_the_short_parts_of_the_torture():
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "torture", "kills=3", "signals", "processes"]
    result = subprocess.run(
        command, cwd=ROOT, env={**environment(), **path}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout
