"""The loop as a whole, in process: resumed = uninterrupted, refusals, non-finite losses."""

import contextlib
import dataclasses
import gzip
import io
import json
import pathlib
import shutil
import signal
import statistics
import threading
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mixer import train_loop
from mixer.build import build_without_data
from mixer.checkpoint.folder import newest_step
from mixer.checkpoint.restore import restore
from mixer.data.input_pipeline import TrainInput
from mixer.data.records import Files
from mixer.evaluation import in_training
from mixer.flops import CHIPS, Chip
from mixer.reporting.metrics import read_metrics
from mixer.reporting.reports import Reports
from mixer.runtime.preemption import Preempted
from mixer.runtime.watchdog import Watchdog
from mixer.runtime.workdir_lock import workdir_lock
from mixer.sharding import create_mesh
from mixer.train_loop import create_training

pytestmark = pytest.mark.usefixtures("no_pictures")
NORMS = ("grad_norm", "update_norm", "param_norm")
TIMED = ("images_per_second_per_core", "train_seconds", "wall_seconds", "core_days")


def read_lines(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Returns the metrics without those that a clock decides."""
    return [
        {key: value for key, value in line.items() if key not in TIMED}
        for line in read_metrics(workdir)
    ]


def read_state(config, workdir: pathlib.Path, step: int):
    options, _ = build_without_data(config)
    abstract_state = create_training(options, create_mesh()).abstract_state
    return jax.device_get(restore(workdir / "checkpoints", step, abstract_state))


@dataclasses.dataclass
class FinishedRun:
    workdir: pathlib.Path
    result: dict[str, float]
    shown: str
    beats: int
    phases: list[str]  # that the watchdog was told of


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, make_digits_config) -> FinishedRun:
    """A run of `digits_config`; copy its workdir before a change."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    beat, beats, phase, phases = Watchdog.beat, [], Watchdog.phase, []

    def noted_phase(dog: Watchdog, name: str) -> contextlib.AbstractContextManager[None]:
        phases.append(name)
        return phase(dog, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watchdog, "beat", lambda dog: beats.append(beat(dog)))
        patch.setattr(Watchdog, "phase", noted_phase)
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            reports = Reports(traced_steps=range(3, 6))
            result = train_loop.train(make_digits_config(), workdir, reports=reports)
    return FinishedRun(workdir, result, shown.getvalue(), len(beats), phases)


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    tmp_path, digits_config, finished_run, capsys
):
    assert digits_config.checkpoint_every % digits_config.log_every  # resumed in mid-window
    whole, resumed = finished_run.workdir, tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "20")
    # The same command after an interruption goes on, even if the trace was cut short.
    train_loop.train(digits_config, resumed, reports=Reports(traced_steps=range(9, 12)))
    assert "No trace: step 9 is already taken." in capsys.readouterr().out

    first, second = (read_state(digits_config, path, 20) for path in (whole, resumed))
    assert first.step == second.step == 20
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = read_lines(whole)
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20, 20]
    assert read_lines(resumed) == lines


def test_several_steps_in_a_program_are_the_steps_one_by_one(tmp_path, digits_config, finished_run):
    # Calls end where something is due: at steps 4, 8, ... (a line), 10 (a checkpoint), 2 (a trace).
    digits_config.steps_per_call = 3
    train_loop.train(digits_config, tmp_path, reports=Reports(traced_steps=range(3, 6)))
    lines, expected = read_lines(tmp_path), read_lines(finished_run.workdir)
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20, 20]
    for line, other in zip(lines, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-5)  # another program rounds differently


def test_a_run_on_images_that_the_devices_keep_is_resumed_bit_for_bit(tmp_path, digits_config):
    digits_config.input, digits_config.steps_per_call = "device", 4
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = train_loop.train(digits_config, whole)
    assert result["test/count"] == 364
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "20")
    digits_config.steps_per_call = 3
    train_loop.train(digits_config, resumed)
    assert read_lines(resumed) == read_lines(whole)
    states = [read_state(digits_config, path, 20) for path in (whole, resumed)]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [("randaugment", {"layers": 2, "magnitude": 5.0}, "inception_crop and 2 layers"),
     ("train_crop", {"name": "random_crop", "resize": 20}, "random_crop and 0 layers"),
     ("replace_damaged", True, "True")],
)  # fmt: skip
def test_what_the_host_alone_does_is_refused_on_the_device(
    tmp_path, digits_config, key, value, got
):
    digits_config.input = "device"
    digits_config[key] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(ValueError, match=f"with input=device.*; got {got}.*Use input=host"):
        train_loop.train(digits_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_run_writes(finished_run):
    workdir, result, shown = finished_run.workdir, finished_run.result, finished_run.shown
    assert finished_run.beats == 20 + 6  # steps, and batches of the evaluation
    assert finished_run.phases == [
        *("opening the data", "restoring the checkpoint", "training"),
        *("reading all images", "reading the first batch", "compiling the training step"),
    ]
    assert result["test/count"] == 364
    assert json.loads((workdir / "config.json").read_text())["model"]["hidden_dim"] == 16
    assert (workdir / "curves.png").stat().st_size > 10_000
    assert (workdir / "train_images.png").stat().st_size > 10_000
    assert list(workdir.glob("events.out.tfevents.*"))
    lines = read_metrics(workdir)
    assert set(lines[0]) == {"step", "loss", *NORMS, "learning_rate", *TIMED}
    scores = {"test/top1", "test/top5", "test/loss", "test/count"}
    assert set(lines[-1]) == {"step", "wall_seconds", *scores}
    # learning rate of the 4th update with 5 warm-up steps, then of the last one
    assert lines[0]["learning_rate"] == pytest.approx(3e-3 * 3 / 5)
    assert lines[-2]["learning_rate"] == pytest.approx(1e-5 + (3e-3 - 1e-5) / 15, rel=1e-3)
    assert "| stem/kernel " in shown
    assert "step 20/20 | loss" in shown
    # Without the wait for the last saves, which is not training.
    assert f"Finished 20 steps in {lines[-2]['train_seconds']:.1f} s of training" in shown
    assert f"test top-1   {result['test/top1']:.2%} of 364 images" in shown
    assert str(workdir / "curves.png") in shown


def test_a_trace_has_the_steps_that_were_asked_for(finished_run):
    (path,) = finished_run.workdir.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))  # what TensorBoard reads
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert [int(step) for step in steps] == [3, 4, 5]
    assert f"Wrote a trace to {finished_run.workdir / 'profile'}: " in finished_run.shown


@pytest.mark.slow
def test_the_flops_of_the_model_over_the_peak_of_a_known_chip(tmp_path, digits_config, monkeypatch):
    monkeypatch.setitem(CHIPS, jax.devices()[0].device_kind, Chip(1e9, 1, cores=2))
    train_loop.train(digits_config, tmp_path)
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]
    # 16 patches of 4 x 4 x 3 and 16 channels; 2 blocks with MLPs of 8 and 32; 10 classes
    block = 2 * 16 * 16 * 8 + 2 * 16 * 16 * 32
    flops = 3 * 2 * (16 * 16 * (4 * 4 * 3) + 2 * block + 16 * 10)
    for line in lines:
        expected = line["images_per_second_per_core"] * 2 * flops / 1e9
        assert line["model_flops_utilisation"] == pytest.approx(expected)
        assert line["core_days"] == pytest.approx(line["train_seconds"] * 8 * 2 / 86400)


def test_a_finished_run_only_reports(tmp_path, digits_config, finished_run, capsys):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    assert train_loop.train(digits_config, workdir) == finished_run.result
    metrics = [path / "metrics.jsonl" for path in (workdir, finished_run.workdir)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert "Resuming" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_the_step_compiles_while_the_first_batch_is_being_read(
    tmp_path, digits_config, monkeypatch
):
    digits_config.num_epochs = 2 * 64 / 1433
    digits_config.optimizer.warmup_steps = 1
    compiling = threading.Event()
    compile_step, from_step = train_loop.compile_call, TrainInput.from_step

    def observed(*args):
        compiling.set()
        return compile_step(*args)

    def waiting(self, first_step, on_damage):
        assert compiling.wait(60), "the first batch holds up the compilation"
        yield from from_step(self, first_step, on_damage)

    monkeypatch.setattr(train_loop, "compile_call", observed)
    monkeypatch.setattr(TrainInput, "from_step", waiting)
    assert train_loop.train(digits_config, tmp_path)["step"] == 2


@pytest.mark.usefixtures("on_one_device")
def test_a_run_that_lacks_its_last_evaluation_alone_compiles_no_step(
    tmp_path, digits_config, monkeypatch
):
    digits_config.num_epochs = 2 * 64 / 1433
    digits_config.optimizer.warmup_steps = 1
    digits_config.checkpoint_every = 2

    def stopped(*args):
        raise Preempted(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(in_training, "evaluate", stopped)
        with pytest.raises(Preempted):
            train_loop.train(digits_config, tmp_path)
    assert newest_step(tmp_path / "checkpoints") == 2
    monkeypatch.setattr(
        train_loop, "compile_call", lambda *args: pytest.fail("a step was compiled")
    )
    monkeypatch.setattr(TrainInput, "from_step", lambda *args: pytest.fail("a batch was read"))
    assert train_loop.train(digits_config, tmp_path)["test/count"] == 364


@pytest.mark.usefixtures("on_one_device")
def test_a_changed_config_is_refused_and_nothing_overwritten(tmp_path, digits_config, finished_run):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    before = {path: path.read_bytes() for path in workdir.glob("*.json*")}
    digits_config.optimizer.learning_rate = 1e-4
    digits_config.train_split = "train[:90%]"
    digits_config.log_every = 1
    with pytest.raises(ValueError, match=r"(?s)learning_rate: 0.003 before, 0.0001 now.*train"):
        train_loop.train(digits_config, workdir)
    assert {path: path.read_bytes() for path in workdir.glob("*.json*")} == before
    digits_config.num_epochs = 24 * 64 / 1289  # 24 steps of the smaller split
    train_loop.train(digits_config, workdir, allow_config_change=True)
    steps = [line["step"] for line in read_metrics(workdir)]
    assert steps == [4, 8, 12, 16, 20, 20, 21, 22, 23, 24, 24]
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["learning_rate"] == 1e-4


@pytest.mark.usefixtures("on_one_device")
def test_a_loss_that_is_not_finite_ends_the_run_at_that_step(tmp_path, digits_config, monkeypatch):
    digits_config.checkpoint_every = 5
    make_train_step = train_loop.make_train_step

    def make_poisoned_step(*args, **kwargs):
        step = make_train_step(*args, **kwargs)

        def poisoned(state, batch):
            state, metrics = step(state, batch)
            broken = state.step == 13
            poison = lambda x: jax.numpy.where(broken, jax.numpy.nan, x)  # noqa: E731
            return state.replace(params=jax.tree.map(poison, state.params)), metrics

        return poisoned

    monkeypatch.setattr(train_loop, "make_train_step", make_poisoned_step)
    # Poisoned behind the metrics of step 13, so the loss of step 14 is the first to show it.
    with pytest.raises(FloatingPointError, match="Step 14 is not finite: .*loss nan"):
        train_loop.train(digits_config, tmp_path)
    assert newest_step(tmp_path / "checkpoints") == 10
    state = read_state(digits_config, tmp_path, 10)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8, 12]


def test_other_data_are_refused_and_so_is_a_second_run_in_the_workdir(
    tmp_path, digits_config, finished_run, monkeypatch
):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(Files, "fingerprint", lambda files: "replaced")
        with pytest.raises(
            ValueError, match=r"data of train: '[0-9a-f]{16}' before, 'replaced' now"
        ):
            train_loop.train(digits_config, workdir)
    with workdir_lock(workdir), pytest.raises(ValueError, match="Another run is at work in"):
        train_loop.train(digits_config, workdir)


def test_a_run_is_not_made_shorter_than_it_is(tmp_path, digits_config, finished_run):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    before = (workdir / "metrics.jsonl").read_bytes()
    digits_config.num_epochs /= 2
    message = r"at least the 20 steps of the newest checkpoint; got a run of 10\. A run cannot be"
    for allowed, start in (
        (False, r"(?s)num_epochs: .* before.*\nExpected "),
        (True, "^Expected "),
    ):
        with pytest.raises(ValueError, match=start + message):
            train_loop.train(digits_config, workdir, allow_config_change=allowed)
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_a_finished_run_is_extended_as_the_refusal_says(tmp_path, digits_config, finished_run):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    digits_config.num_epochs *= 1.2
    rate = build_without_data(digits_config)[0].schedule(20)
    message = (
        r"(?s)num_epochs: .*To train longer, add --allow_config_change: the run then goes on from "
        f"step 20 to 24 with the learning rates of the new schedule, {float(rate):.3g} next"
    )
    with pytest.raises(ValueError, match=message):
        train_loop.train(digits_config, workdir)
    train_loop.train(digits_config, workdir, allow_config_change=True)
    last = read_metrics(workdir)[-2]
    assert (last["step"], last["learning_rate"]) == (24, pytest.approx(1e-5 + (3e-3 - 1e-5) / 19))


def test_a_finished_run_without_its_metrics_evaluates_again(tmp_path, digits_config, finished_run):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    (workdir / "metrics.jsonl").unlink()
    result = train_loop.train(digits_config, workdir)
    lines = read_lines(finished_run.workdir)
    assert read_lines(workdir) == lines[-1:]
    assert result["test/top1"] == lines[-1]["test/top1"]
    before = (workdir / "metrics.jsonl").read_bytes()
    train_loop.train(digits_config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_with_other_eval_settings_is_evaluated_with_these(
    tmp_path, digits_config, finished_run
):
    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    digits_config.log_every = 7  # has no effect on the score
    assert train_loop.train(digits_config, workdir) == finished_run.result
    digits_config.eval_splits = {"few": "train[:100]", "test": "test"}
    result = train_loop.train(digits_config, workdir)
    assert (result["few/count"], result["test/count"]) == (100, 364)
    assert result["test/top1"] == finished_run.result["test/top1"]
    digits_config.eval_splits = {"few": "train[:100]"}
    digits_config.eval_resize = 24
    result = train_loop.train(digits_config, workdir)
    assert "test/top1" not in result
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20, 20]
    metrics = ("step", "wall_seconds", "few/top1", "few/top5", "few/loss", "few/count")
    assert lines[-1] == {key: result[key] for key in metrics}
    assert json.loads((workdir / "config.json").read_text())["eval_splits"] == {
        "few": "train[:100]"
    }
    # The score of the first settings is that of the first run again.
    digits_config.eval_splits = {"test": "test"}
    digits_config.eval_resize = 16
    before = (workdir / "metrics.jsonl").read_bytes()
    result = train_loop.train(digits_config, workdir)
    assert result.pop("wall_seconds") > 0
    assert finished_run.result | result == finished_run.result
    assert result.keys() == finished_run.result.keys() - {"wall_seconds"}
    assert (workdir / "metrics.jsonl").read_bytes() != before
    assert read_lines(workdir) == read_lines(finished_run.workdir)


@pytest.mark.slow
def test_the_speed_of_every_step_is_that_of_its_time(tmp_path, digits_config, on_one_device):
    digits_config.log_every, digits_config.eval_every = 1, 5
    digits_config.model.hidden_dim = 128
    digits_config.eval_splits.test = "test[:64]"
    begin = time.monotonic()
    train_loop.train(digits_config, tmp_path)
    seconds = time.monotonic() - begin
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    measured = [64 / 8 / line["images_per_second_per_core"] for line in lines]
    assert sum(measured) == pytest.approx(lines[-1]["train_seconds"])
    assert sum(measured) < seconds
    # Reported before an evaluation, and right after one another, steps seemed to take 1/30 as long.
    for step in (5, 10, 15, 20):
        assert measured[step - 1] > statistics.median(measured) / 10


@pytest.mark.slow
def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path, digits_config, finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workdir = shutil.copytree(finished_run.workdir, tmp_path / "copy")
    shutil.rmtree(workdir / "checkpoints" / "20")
    train_loop.train(digits_config, workdir)
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("loss")] == [4, 8, 12, 16, 20]
    assert [event.step for event in events.Tensors("test/top1")] == [20]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.learning_rates", 1, "Did you mean 'optimizer.learning_rate'"),
        ("model.hidden_dims", 1, "'model.hidden_dims'.*Did you mean 'model.hidden_dim'"),
        ("train_crop.resize", 20, "does not use these config keys: 'train_crop.resize'"),
        ("dataset", "digit", "Did you mean 'digits'"),
        ("loss", "sigmod", "Did you mean 'sigmoid'"),
        ("batch_size", 20, "divisible by the 8 devices; got 20"),
        ("image_size", 14, "multiples of patch_size=4; got 14 x 14"),
        ("num_stripes", 7, "divisible by num_stripes"),
        ("log_every", 0, "log_every to be an int, x >= 1 .*; got 0"),
        ("watchdog_seconds", -1, "watchdog_seconds to be an int, x >= 0 .*0 = never\\); got -1"),
        ("polyak_decay", 1.5, "polyak_decay to be a float, 0 <= x < 1 .*; got 1.5"),
        ("mixup_alpha", -0.5, "mixup_alpha to be a float, 0 <= x <= 1000 .*; got -0.5"),
        ("num_steps", 10, "num_steps or num_epochs; got num_steps and num_epochs"),
        ("num_epochs", 0.0, "num_epochs to be a float, x > 0 .*; got 0.0"),
        ("num_epochs", 0.01, "num_epochs to make 1 to .* steps; got 0.01, which makes 0 "),
        ("optimizer.warmup_steps", 999, "warmup_steps to be at least 0 and below the .* steps"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_written(
    tmp_path, digits_config, key, value, message
):
    *sections, name = key.split(".")
    section = digits_config
    for part in sections:
        section = section[part]
    section[name] = value
    workdir = tmp_path / "workdir"
    with pytest.raises(ValueError, match=message):
        train_loop.train(digits_config, workdir)
    assert not workdir.exists()
