"""What a run has cost, by a clock and devices of the test's own."""

import json
import pathlib
import struct
import time
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mixer.flops import CHIPS, Chip
from mixer.reporting import progress, run_log
from mixer.reporting.metrics import read_metrics
from mixer.reporting.reports import Reports
from mixer.reporting.run_log import RunLog
from mixer.reporting.trace import parse_steps

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


def open_log(
    workdir, first_step: int, saved: dict[str, Any], *, started: float | None = None, **reports: Any
) -> RunLog:
    return RunLog(
        workdir,
        started=time.monotonic() - 20 if started is None else started,
        config={},
        first_step=first_step,
        total_steps=9,
        log_every=1,
        batch_size=DAY,
        train_flops_per_image=1e5,
        schedule=lambda step: 0.1,
        saved=saved,
        reports=Reports(**reports),
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


def test_the_wall_clock_goes_on_from_the_checkpoint(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(run_log, "time", types.SimpleNamespace(monotonic=clock.monotonic))
    scores = {"test": {"top1": 0.5, "count": 2}}
    with open_log(tmp_path, 0, {}, started=clock.seconds - 10, pictures=False) as log:
        log.start_clock()
        saved = train(log, clock, 1, seconds=100)
        clock.seconds += 7
        log.add_evaluations(1, scores)
        train(log, clock, 2, seconds=100)  # not saved
    clock.seconds += 5000  # nothing runs
    with open_log(tmp_path, 1, saved, started=clock.seconds - 20, pictures=False) as log:
        log.start_clock()
        train(log, clock, 2, seconds=100)
        log.add_evaluations(2, scores)
    first = 10 + 100
    second = first + DAY / 2 + 20 + 100  # from the save of step 1
    walls = [line["wall_seconds"] for line in read_metrics(tmp_path)]
    assert walls == [first, first + DAY / 2 + 7, second, second + DAY / 2]
    del saved["wall_seconds"]  # as older versions saved it
    with open_log(tmp_path, 1, saved, started=clock.seconds - 20, pictures=False) as log:
        log.add_evaluations(1, scores)
    assert read_metrics(tmp_path)[-1]["wall_seconds"] == 100 + 20


def test_the_first_step_says_how_long_the_start_took(tmp_path, clock, capsys):
    with open_log(tmp_path, first_step=4, saved={}) as log:
        log.start_clock()
        for step in (5, 6, 7):
            train(log, clock, step, seconds=1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("First step")]
    (seconds,) = [float(line.split()[3]) for line in said]
    assert said == [f"First step done {seconds:.1f} s after the start."]
    assert 20 <= seconds < 40


def test_a_trace_of_steps_that_the_run_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 9; got 8 to 10"):
        open_log(tmp_path, 0, {}, traced_steps=range(8, 11))
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_early_writes_the_trace_so_far(tmp_path, clock, capsys):
    with open_log(tmp_path, 0, {}, traced_steps=range(1, 9)) as log:
        log.start_clock()
        train(log, clock, 1, seconds=1)
    assert "Wrote a trace to" in capsys.readouterr().out
    assert len(list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.parametrize("text", ["10", "0:5", "5:0", "1:2:3", "-1:2", "a:b", ":", ""])
def test_steps_to_trace_are_two_positive_numbers(text):
    assert parse_steps("100:5") == range(100, 105)
    with pytest.raises(ValueError, match=f"STEP:COUNT.*; got '{text}'."):
        parse_steps(text)


def wandb_records(path: pathlib.Path) -> Iterator[Any]:
    """Reads the package's file: a header of 7 bytes, then records in the format of LevelDB's log.

    The file is shorter than a block of it, so no record is split.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    assert len(data) < 32 * 1024
    start = 7
    while start < len(data):
        _, length, kind = struct.unpack_from("<IHB", data, start)
        assert kind == 1  # a whole record
        start += 7
        yield Record.FromString(data[start : start + length])
        start += length


@pytest.mark.slow
def test_weights_and_biases_get_the_same_metrics_also_after_a_resume(tmp_path, clock, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first_step, last_step in ((0, 3), (2, 4)):
        with open_log(tmp_path, first_step, {}, wandb_project="mixer") as log:
            log.start_clock()
            for step in range(first_step + 1, last_step + 1):
                train(log, clock, step, seconds=1)
    wandb.teardown()  # its process, which ends with a program
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    run_id = (tmp_path / "wandb_id.txt").read_text()
    assert [folder.name.split("-")[-1] for folder in folders] == [run_id] * 2
    seen = []
    for folder in folders:
        for record in wandb_records(folder / f"run-{run_id}.wandb"):
            values = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if values:
                seen.append((values["_step"], values["loss"], values["learning_rate"]))
    assert seen == [(step, 1, 0.1) for step in (1, 2, 3, 3, 4)]
    assert wandb.run is None
