"""What fits this machine, and how long a run takes on it: on the eight virtual devices."""

import math

import jax
import psutil
import pytest

from configs import digits
from mixer.benchmark.timing import Workload
from mixer.build import build_without_data
from mixer.rehearsal import here
from mixer.sharding import create_mesh


@pytest.fixture
def config():
    config = digits.get_config()
    config.model.num_blocks = 1
    config.batch_size = 64
    return config


def test_the_whole_batch_and_its_time(config, one_device_mesh, monkeypatch):
    monkeypatch.setattr(here, "create_mesh", lambda *args, **sizes: one_device_mesh)
    monkeypatch.setattr(here, "_SECONDS", 0.2)
    report = here.rehearse_here(config)
    assert (report["accumulation_steps"], report["batch_per_core"]) == (1, 64)
    assert report["total_steps"] == build_without_data(config)[0].total_steps == 1343
    seconds = report["estimated_step_ms"] / 1e3
    assert report["hours"] == pytest.approx(1343 * seconds / 3600)
    assert report["core_days"] == pytest.approx(report["hours"] / 24)
    assert report["images_per_s_per_core"] == pytest.approx(64 / seconds)
    free = psutil.virtual_memory().available / 2**30
    assert report["hbm_limit_gib"] == pytest.approx(free, rel=0.3)
    assert 0 < report["peak_hbm_gib"] < 0.1
    assert report["estimated_by"] == "measured"


def test_a_batch_that_does_not_fit_is_computed_in_parts(config, one_device_mesh, monkeypatch):
    monkeypatch.setattr(here, "create_mesh", lambda *args, **sizes: one_device_mesh)

    def workload(step, state, batch):
        size = batch["images"].shape[0]
        if size == 32:  # as a GPU says it
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return Workload(lambda calls: None, 0.1, sums + 1000 if size == 64 else 260)

    monkeypatch.setattr(here, "chained", workload)
    monkeypatch.setattr(here, "_seconds_per_call", lambda workload: 0.25)
    options, _ = build_without_data(config)
    sums = 4 * sum(
        math.prod(leaf.shape)
        for leaf in jax.tree.leaves(
            here.create_training(options, one_device_mesh).abstract_state.params
        )
    )
    monkeypatch.setattr(here, "memory_per_device", lambda mesh: sums + 300)
    report = here.rehearse_here(config)
    assert (report["accumulation_steps"], report["batch_per_core"]) == (4, 16)
    assert report["estimated_step_ms"] == 1000  # four parts
    assert report["peak_hbm_gib"] * 2**30 == sums + 260
    monkeypatch.setattr(here, "memory_per_device", lambda mesh: 100)
    with pytest.raises(ValueError, match="even 1 images do not"):
        here.rehearse_here(config)


def test_devices_share_the_memory_of_a_cpu():
    free = psutil.virtual_memory().available
    assert here.memory_per_device(create_mesh()) == pytest.approx(free / 8, rel=0.3)


def test_one_slow_call_is_enough():
    calls = []
    slow = Workload(lambda count: calls.append(count), 0.0)
    monotonic = iter([0.0, 7.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mixer.benchmark.timing.time.perf_counter", lambda: next(monotonic))
        assert here._seconds_per_call(slow) == pytest.approx(7.0)
    assert calls == [1, 1]
