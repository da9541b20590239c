"""Runs whose checkpoints are damaged or cannot be written: they go on, with the same bits, or end.

All are runs of 15 steps with a checkpoint every 5.
"""

import collections
import functools
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from children import one_device
from ml_collections import ConfigDict
from test_damage import edit_meta, files_of, largest_data, put, truncate

from mixer import train_loop
from mixer.checkpoint import format as checkpoint_format
from mixer.checkpoint.format import read_checkpoint
from mixer.checkpoint.save import Checkpoints
from mixer.evaluation import in_training
from mixer.reporting.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent.parent
OF_THE_CLOCK = ("images_per_second_per_core", "train_seconds", "wall_seconds", "core_days")

# `arrays_of` leaves the choice of devices to Orbax.
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")


@pytest.fixture(scope="module")
def make_config(make_digits_config, parts_built_once) -> Callable[[], ConfigDict]:
    def make() -> ConfigDict:
        config = make_digits_config()
        config.num_epochs = 15 * 64 / 1433
        config.eval_every = 15
        config.checkpoint_every = 5
        config.keep_checkpoints = 3
        config.model.hidden_dim = 64  # so that most bytes of a checkpoint are those of arrays
        config.model.channels_mlp_dim = 256
        return config

    return make


@pytest.fixture
def config(make_config) -> ConfigDict:
    return make_config()


@pytest.fixture(scope="module")
def undisturbed(make_config, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    train_loop.train(make_config(), workdir)
    return workdir


@pytest.fixture
def whole(undisturbed, tmp_path) -> pathlib.Path:
    """A copy of the workdir of an undisturbed run."""
    return shutil.copytree(undisturbed, tmp_path / "whole")


def interrupted(whole: pathlib.Path, name: str = "interrupted") -> pathlib.Path:
    """Returns a copy of the workdir as it was after 10 steps."""
    copy = whole.parent / name
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / "15")
    return copy


def lines_of(workdir: pathlib.Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in line.items() if key not in OF_THE_CLOCK}
        for line in read_metrics(workdir)
    ]


def arrays_of(step: pathlib.Path) -> dict[str, bytes]:
    """Returns the bits of each array of a checkpoint, read by Orbax alone."""
    tree = ocp.PyTreeCheckpointer().restore(step / "state")
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def steps_of(workdir: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def test_a_run_goes_on_from_the_newest_sound_step_with_the_bits_of_an_undisturbed_one(
    config, whole, capsys
):
    workdir = interrupted(whole)
    put(workdir / "checkpoints" / "5" / "state", workdir / "checkpoints" / "10" / "state")
    capsys.readouterr()
    train_loop.train(config, workdir)
    shown = capsys.readouterr().out
    assert "Checkpoint 10 is damaged: checksum: the bits of step, params/MixerBlock_0/" in shown
    assert f"Resuming {workdir} at step 5." in shown
    assert steps_of(workdir) == ["10", "10.damaged-checksum", "15", "5"]
    assert lines_of(workdir) == lines_of(whole)
    for step in ("10", "15"):
        first, second = (arrays_of(path / "checkpoints" / step) for path in (whole, workdir))
        assert len(first) > 50
        assert first == second


def test_the_config_of_the_step_that_is_restored_counts(config, whole):
    workdir = interrupted(whole)
    edit_meta(workdir / "checkpoints" / "10", config={})
    config.optimizer.learning_rate = 1e-4
    with pytest.raises(
        ValueError, match="of step 5 was .*\n  optimizer.learning_rate: 0.003 before"
    ):
        train_loop.train(config, workdir)
    assert steps_of(workdir) == ["10", "5"]
    train_loop.train(config, workdir, allow_config_change=True)
    assert steps_of(workdir) == ["10", "10.damaged-metadata", "15", "5"]


def fail_saves(monkeypatch, *steps: int) -> None:
    save, failed = ocp.CheckpointManager.save, []

    def fail_once(manager, step, **kwargs):
        if step in steps and step not in failed:
            failed.append(step)
            raise OSError(28, "No space left on device")
        return save(manager, step, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail_once)


def test_a_failed_save_is_tried_again_with_the_next_step(config, whole, monkeypatch, capsys):
    fail_saves(monkeypatch, 10, 15)
    workdir = whole.parent / "again"
    train_loop.train(config, workdir)
    shown = capsys.readouterr().out
    for step, then in ((10, 11), (15, 15)):
        assert (
            f"The checkpoint {workdir}/checkpoints/{step} could not be written: [Errno 28] No "
            f"space left on device\nTrying once more, with step {then}.\n"
        ) in shown
    assert steps_of(workdir) == ["11", "15", "5"]
    assert lines_of(workdir) == lines_of(whole)
    final = [arrays_of(path / "checkpoints" / "15") for path in (whole, workdir)]
    assert final[0] == final[1]


def test_a_save_that_fails_twice_ends_the_run(config, monkeypatch, tmp_path):
    fail_saves(monkeypatch, 10, 11)
    with pytest.raises(OSError, match="checkpoints/11 could not .*No space(?s:.*) there: 5. Once"):
        train_loop.train(config, tmp_path)
    assert steps_of(tmp_path) == ["5"]


def test_the_best_step_stays_and_is_named(config, whole, monkeypatch, capsys, tmp_path):
    accuracies = iter((0.5, 0.7, 0.6, 0.7, 0.1, 0.2, 0.3, 0.4))
    evaluate = lambda *args: {"top1": next(accuracies), "loss": 1.0, "count": 364}  # noqa: E731
    monkeypatch.setattr(in_training, "evaluate", evaluate)
    config.eval_every, config.checkpoint_every, config.keep_checkpoints = 2, 2, 1
    config.keep_every, config.best_by = 6, "test/top1"
    workdir = tmp_path / "best"
    train_loop.train(config, workdir)
    assert steps_of(workdir) == ["12", "15", "6", "8"]
    named = f"  best         {workdir}/checkpoints/8, by test/top1\n"
    assert capsys.readouterr().out.endswith(named)
    train_loop.train(config, workdir)
    assert capsys.readouterr().out.endswith(named)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("keep_every", 7, "keep_every to be 0 or a multiple of checkpoint_every .5.; got 7"),
        ("keep_every", -5, "keep_every to be an int, x >= 0 .* got -5"),
        ("best_by", "test/loss", "Unknown score best_by 'test/loss'.* one of: test/top1"),
    ],
)
def test_bad_values_are_refused(config, key, value, message, tmp_path):
    config[key] = value
    with pytest.raises(ValueError, match=message):
        train_loop.train(config, tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


# The thorough part.


def fill(path: pathlib.Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def swap(first: pathlib.Path, second: pathlib.Path) -> None:
    first_bytes = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(first_bytes)


def to_bfloat16(step: pathlib.Path) -> None:
    """Writes the arrays anew: Orbax converts them silently to the type that is asked for."""
    state = ocp.PyTreeCheckpointer().restore(step / "state")
    state = jax.tree.map(lambda x: x.astype("bfloat16") if x.dtype == "float32" else x, state)
    shutil.rmtree(step / "state")
    ocp.PyTreeCheckpointer().save(step / "state", state)


def empty(folder: pathlib.Path, *, but: str = "") -> None:
    for path in folder.iterdir():
        if path.name != but:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def become_a_file(step: pathlib.Path) -> None:
    shutil.rmtree(step)
    step.write_text("")


# Of the newest step, with the step before at hand.
STRUCTURAL: dict[str, Callable[[pathlib.Path, pathlib.Path], object]] = {
    "array file cut in half": lambda new, old: truncate(largest_data(new)),
    "array file empty": lambda new, old: fill(largest_data(new), lambda data: b""),
    "array file zeroed": lambda new, old: fill(largest_data(new), lambda data: bytes(len(data))),
    "array file shifted": lambda new, old: fill(largest_data(new), lambda data: b"x" + data[:-1]),
    "array file longer": lambda new, old: fill(largest_data(new), lambda data: data + b"x"),
    "array file gone": lambda new, old: largest_data(new).unlink(),
    "array files swapped": lambda new, old: swap(*files_of(new / "state/ocdbt.process_0/d")[:2]),
    "array file of the other step": lambda new, old: put(largest_data(old), largest_data(new)),
    "files of the process gone": lambda new, old: shutil.rmtree(new / "state/ocdbt.process_0"),
    "manifest gone": lambda new, old: (new / "state/manifest.ocdbt").unlink(),
    "manifest zeroed": lambda new, old: fill(
        new / "state/manifest.ocdbt", lambda data: bytes(len(data))
    ),
    "manifest of the other step": lambda new, old: put(
        old / "state/manifest.ocdbt", new / "state/manifest.ocdbt"
    ),
    "tree gone": lambda new, old: (new / "state/_METADATA").unlink(),
    "tree without a brace": lambda new, old: fill(new / "state/_METADATA", lambda data: data[:-1]),
    "tree empty": lambda new, old: (new / "state/_METADATA").write_text("{}"),
    "arrays gone": lambda new, old: shutil.rmtree(new / "state"),
    "arrays of the other step": lambda new, old: put(old / "state", new / "state"),
    "arrays in bfloat16": lambda new, old: to_bfloat16(new),
    "meta gone": lambda new, old: shutil.rmtree(new / "meta"),
    "meta cut in half": lambda new, old: truncate(new / "meta/metadata"),
    "meta zeroed": lambda new, old: fill(new / "meta/metadata", lambda data: bytes(len(data))),
    "meta with another loss": lambda new, old: edit_meta(new, log={"window": [{"loss": 1.0}]}),
    "meta of the other step": lambda new, old: put(old / "meta", new / "meta"),
    "the other step in its place": lambda new, old: put(old, new),
    "commit file gone": lambda new, old: (new / "commit_success.txt").unlink(),
    "all but the commit file gone": lambda new, old: empty(new, but="commit_success.txt"),
    "empty folder": lambda new, old: empty(new),
    "a file instead": lambda new, old: become_a_file(new),
    "Orbax's own metadata gone": lambda new, old: (new / "_CHECKPOINT_METADATA").unlink(),
    "Orbax's own metadata zeroed": lambda new, old: fill(
        new / "_CHECKPOINT_METADATA", lambda data: bytes(len(data))
    ),
    "Orbax's own metadata nonsense": lambda new, old: fill(
        new / "_CHECKPOINT_METADATA", lambda data: b'{"commit_timestamp_nsecs": 1e400}'
    ),
}


def flip_one_bit(step: pathlib.Path, rng: random.Random) -> None:
    """Flips one bit, every bit of all files of the step as likely as any other."""
    files = files_of(step)
    (path,) = rng.choices(files, [path.stat().st_size for path in files])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


# Orbax leaves the other reads of a checkpoint that it cannot read to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <coroutine object _read_array:"
    "pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.slow
def test_no_fault_of_the_newest_checkpoint_is_silent(config, whole, capsys):
    rng = random.Random(0)
    faults = list(STRUCTURAL.items())
    faults += [(f"bit {n}", lambda new, old: flip_one_bit(new, rng)) for n in range(100)]
    lines, bits = lines_of(whole), arrays_of(whole / "checkpoints" / "15")
    outcomes: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    start = time.monotonic()
    for name, fault in faults:
        workdir = interrupted(whole)
        fault(workdir / "checkpoints" / "10", workdir / "checkpoints" / "5")
        capsys.readouterr()
        if name == "a file instead":  # nobody's but its writer's to delete
            with pytest.raises(ValueError, match="checkpoints/10 .*: it is not a folder.*move it"):
                train_loop.train(config, workdir)
            (workdir / "checkpoints" / "10").unlink()
        train_loop.train(config, workdir)
        shown = capsys.readouterr().out
        assert lines_of(workdir) == lines, name
        assert arrays_of(workdir / "checkpoints" / "15") == bits, name
        if "at step 10." in shown:
            outcome = "harmless"
        else:
            assert "at step 5." in shown, name
            assert "Checkpoint 10 " in shown or name == "a file instead"
            damaged = [step for step in steps_of(workdir) if "damaged" in step]
            outcome = damaged[0].partition(".")[2] if damaged else "unfinished"
        outcomes["bits" if name.startswith("bit ") else "structural"][outcome] += 1
    seconds = time.monotonic() - start
    with capsys.disabled():
        for kind, counts in outcomes.items():
            print(f"\n{counts.total()} {kind}: 0 silent, {dict(counts.most_common())}", end="")
        print(f"; {seconds:.0f} s")
    assert outcomes["bits"]["damaged-checksum"] > 20  # of which Orbax notices none
    assert outcomes["structural"]["harmless"] <= 6


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_every_earlier_step_sound(tmp_path, data_dir):
    checkpoints = tmp_path / "workdir" / "checkpoints"
    checkpoints.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(checkpoints)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    command = [sys.executable, "-m", "mixer.main", "--config=configs/digits.py"]
    command += [f"--workdir={tmp_path}/workdir", f"--config.data_dir={data_dir}"]
    command += ["--config.num_epochs=3", "--config.checkpoint_every=7"]
    command += ["--config.keep_checkpoints=100", "--config.optimizer.warmup_steps=5"]
    run = functools.partial(
        subprocess.run,
        command,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": one_device()},
        capture_output=True,
        text=True,
        timeout=600,
    )
    try:
        first = run()
        steps = sorted(int(path.name) for path in checkpoints.iterdir())
        assert first.returncode == 1
        assert re.search(
            rf"(?s)The checkpoint {checkpoints}/\d+ could not be written: .*No space left.*\n"
            rf"Trying once more, with step \d+\.\n",
            first.stdout,
        )
        last = first.stderr[first.stderr.rindex("error: ") :]
        assert last.startswith(f"error: The checkpoint {checkpoints}/")
        assert f"Complete checkpoints there: {', '.join(map(str, steps))}. " in last
        assert len(steps) >= 2
        for step in steps:
            read_checkpoint(checkpoints / str(step))
        subprocess.run(["mount", "-o", "remount,size=100m", str(checkpoints)], check=True)
        second = run()
        assert second.returncode == 0, second.stderr
        assert f"at step {steps[-1]}." in second.stdout
    finally:
        subprocess.run(["umount", str(checkpoints)], check=True)


@pytest.mark.slow
def test_what_a_save_costs(tmp_path, monkeypatch, capsys):
    array_checksums, checksum_seconds = checkpoint_format.array_checksums, []

    def timed(tree: Any) -> dict[str, str]:
        start = time.perf_counter()
        checksums = array_checksums(tree)
        checksum_seconds.append(time.perf_counter() - start)
        return checksums

    monkeypatch.setattr(checkpoint_format, "array_checksums", timed)
    device = jax.devices()[0]
    state = {
        str(n): jax.device_put(
            np.random.default_rng(n).normal(size=(1024, 3072)).astype("f"), device
        )
        for n in range(20)
    }
    blocked, complete = [], []
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in range(1, 7):
            start = time.perf_counter()
            checkpoints.save(step, state, {})
            blocked.append(time.perf_counter() - start - checksum_seconds[-1])
            checkpoints.wait()
            complete.append(time.perf_counter() - start - checksum_seconds[-1])
    blocks, in_all, more = (
        f"{1e3 * statistics.median(times):.0f} ms"
        for times in (blocked, complete, checksum_seconds)
    )
    with capsys.disabled():
        print(
            f"\n252 MB: a save takes {in_all}, of which it blocks {blocks}; checksums {more} more"
        )
    assert min(blocked) <= 0.03 * min(complete)
