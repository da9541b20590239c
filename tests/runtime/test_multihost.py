"""Several processes, started as a user starts them, train the bits that one process trains."""

import os
import pathlib
import re
import subprocess
import sys
import time

import jax
import pytest
from ml_collections import ConfigDict
from ports import free_port

from mixer import build, train_loop
from mixer.build import build_without_data
from mixer.checkpoint.restore import restore
from mixer.reporting.metrics import read_metrics
from mixer.sharding import create_mesh
from mixer.train_loop import create_training
from mixer.train_state import TrainState

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 50
OF_THE_CLOCK = ("images_per_second_per_core", "train_seconds", "wall_seconds", "core_days")


@pytest.fixture
def config(digits_config: ConfigDict) -> ConfigDict:
    """50 steps with mixup, stochastic depth and clipping; every loss is logged."""
    digits_config.num_epochs = STEPS * 64 / 1433
    digits_config.log_every = 1
    digits_config.eval_every = STEPS
    digits_config.checkpoint_every = 25
    assert digits_config.mixup_alpha > 0
    assert digits_config.model.stochastic_depth_rate > 0
    assert digits_config.optimizer.clip_global_norm > 0
    return digits_config


def overrides(config: ConfigDict) -> list[str]:
    keys = ["data_dir", "num_epochs", "log_every", "eval_every", "checkpoint_every"]
    keys += [f"model.{key}" for key in ("num_blocks", "hidden_dim")]
    keys += [f"model.{key}" for key in ("tokens_mlp_dim", "channels_mlp_dim")]
    keys += ["optimizer.warmup_steps"]
    flat = config.to_dict() | {
        f"{section}.{key}": value
        for section in ("model", "optimizer")
        for key, value in config[section].items()
    }
    return [f"--config.{key}={flat[key]}" for key in keys]


def train_in_two_processes(
    config: ConfigDict, workdir: pathlib.Path, *, stop_at: int = 0
) -> list[str]:
    """Trains on one device of each process; returns what each process printed.

    When step `stop_at` is logged, the second process gets a SIGTERM.
    """
    for _ in range(3):  # somebody else may take the port before process 0 does
        outputs, codes = start_and_wait(config, workdir, stop_at)
        if not any("in use" in output for output in outputs):
            break
    assert codes == [0, 0], "\n".join(outputs)
    return outputs


def start_and_wait(
    config: ConfigDict, workdir: pathlib.Path, stop_at: int
) -> tuple[list[str], list[int]]:
    command = [sys.executable, "-m", "mixer.main", "--config=configs/digits.py"]
    command += [f"--workdir={workdir}", *overrides(config)]
    command += [f"--compilation_cache={workdir.parent / 'xla'}"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    running = [
        subprocess.Popen(
            [*command, f"--process_id={index}"],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        while stop_at and running[-1].poll() is None:
            time.sleep(0.01)
            if any(line["step"] >= stop_at for line in read_metrics(workdir)):
                running[-1].terminate()
                break
        outputs = [process.communicate(timeout=150)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return outputs, [process.returncode for process in running]


def read_lines(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Returns the metrics without those that a clock decides."""
    return [
        {key: value for key, value in line.items() if key not in OF_THE_CLOCK}
        for line in read_metrics(workdir)
    ]


def read_state(config: ConfigDict, workdir: pathlib.Path) -> TrainState:
    options, _ = build_without_data(config)
    training = create_training(options, create_mesh())
    return jax.device_get(restore(workdir / "checkpoints", STEPS, training.abstract_state))


def assert_same_bits(first: TrainState, second: TrainState) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.slow  # as scripts/torture.sh processes
def test_two_processes_have_the_bits_of_one_also_when_switched_in_the_middle(
    tmp_path, config, monkeypatch, capsys
):
    one, two, switched = (tmp_path / name for name in ("one", "two", "switched"))
    # The one process is this one, with as many devices as the two have.
    monkeypatch.setattr(build, "create_mesh", lambda **sizes: create_mesh(jax.devices()[:2]))
    train_loop.train(config, one)

    config.data_dir = str(tmp_path / "data")  # not there yet: both processes write the digits
    shown = train_in_two_processes(config, two)
    assert f"Finished {STEPS} steps" in shown[0]
    assert "step" not in shown[1], "process 0 speaks for all"
    assert len(list(two.glob("events.out.tfevents.*"))) == 1
    stopped, _ = train_in_two_processes(config, switched, stop_at=10)
    (step,) = re.findall("SIGTERM: saving step ([0-9]+), then ending", stopped)
    assert 10 <= int(step) < STEPS
    train_loop.train(config, switched)
    assert f"Resuming {switched} at step {step}." in capsys.readouterr().out

    lines = read_lines(one)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    assert [line["test/count"] for line in lines if "test/count" in line] == [364]
    state = read_state(config, one)
    assert state.step == STEPS
    for other in (two, switched):
        assert read_lines(other) == lines
        assert_same_bits(read_state(config, other), state)
