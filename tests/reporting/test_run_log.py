"""What a run has cost, by a clock and devices of the test's own."""

import json
import time
import types
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mixer.flops import CHIPS, Chip
from mixer.reporting import progress
from mixer.reporting.metrics import read_metrics
from mixer.reporting.run_log import RunLog

DAY = 86400


class Clock:
    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    return clock


def open_log(workdir, first_step: int, saved: dict[str, Any]) -> RunLog:
    return RunLog(
        workdir,
        started=time.monotonic() - 20,
        config={},
        first_step=first_step,
        total_steps=9,
        log_every=1,
        batch_size=DAY,
        train_flops_per_image=1e5,
        schedule=lambda step: 0.1,
        saved=saved,
    )


def train(log: RunLog, clock: Clock, step: int, seconds: float) -> dict[str, Any]:
    """Trains one step, saves in half a day; returns the state as a checkpoint gives it back."""
    clock.seconds += seconds
    log.add(step, {"loss": jnp.float32(1)})
    with log.pause():
        clock.seconds += DAY / 2
        return json.loads(json.dumps(log.state()))


@pytest.mark.parametrize("known_chip", [False, True])
def test_the_cost_of_a_run_resumed_on_other_devices(tmp_path, monkeypatch, clock, known_chip):
    if known_chip:
        chip = Chip(flops_per_second=500_000, hbm_gib=1, cores=2)
        monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, chip)
    with open_log(tmp_path, 0, {}) as log:  # on 8 devices
        clock.seconds += DAY  # compiles
        log.start_clock()
        saved = train(log, clock, 1, DAY / 8)  # 1 core-day if a device is one core
        train(log, clock, 2, DAY / 8)  # not saved
    monkeypatch.setattr(jax, "device_count", lambda: 32)
    with open_log(tmp_path, 1, saved) as log:
        log.start_clock()
        train(log, clock, 2, DAY / 8)  # 4 core-days
        train(log, clock, 3, DAY / 16)  # 2 core-days
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["train_seconds"] / DAY for line in lines] == [1 / 8, 2 / 8, 5 / 16]
    cores = 2 if known_chip else 1
    assert [line["core_days"] for line in lines] == [1 * cores, 5 * cores, 7 * cores]
    # images/s/core: 86400 images on 8 devices in 10800 s, on 32 in 10800 s, on 32 in 5400 s
    speeds = [line["images_per_second_per_core"] * cores for line in lines]
    assert speeds == [1, 0.25, 0.5]
    if known_chip:  # times 0.1 MFLOP, of the 0.5 MFLOP/s of a device
        assert [line["model_flops_utilisation"] for line in lines] == [0.2, 0.05, 0.1]
    else:
        assert not any("model_flops_utilisation" in line for line in lines)


def test_the_first_step_says_how_long_the_start_took(tmp_path, clock, capsys):
    with open_log(tmp_path, first_step=4, saved={}) as log:
        log.start_clock()
        for step in (5, 6, 7):
            train(log, clock, step, seconds=1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("First step")]
    (seconds,) = [float(line.split()[3]) for line in said]
    assert said == [f"First step done {seconds:.1f} s after the start."]
    assert 20 <= seconds < 40
