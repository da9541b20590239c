"""Checkpoints: round trip, other devices, what is kept, unfinished and failed saves."""

import pathlib
import sys
import time

import children
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from cases import slow_after
from etils import epath

from mixer.checkpoint.checksum import array_checksums
from mixer.checkpoint.damage import DamagedCheckpoint
from mixer.checkpoint.folder import checkpoint_folder, complete_steps, newest_step
from mixer.checkpoint.format import read_checkpoint, read_meta
from mixer.checkpoint.restore import restore, restore_newest
from mixer.checkpoint.save import Checkpoints
from mixer.sharding import create_mesh
from mixer.train_state import TrainState, create_train_state


@pytest.fixture
def state(tiny_mixer, one_device_mesh) -> TrainState:
    return random_state(abstract_state(tiny_mixer, one_device_mesh))


def abstract_state(model, mesh) -> TrainState:
    return create_train_state(
        model, optax.adam(1e-3), image_size=8, seed=0, averaged=False, mesh=mesh
    )[0]


def random_state(abstract: TrainState) -> TrainState:
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = 100 * rng.normal(size=leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, abstract)


def abstract_of(state: TrainState) -> TrainState:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same_bits(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


MESHES = {
    "8 replicated": dict(data=-1, fsdp=1),
    "4 fsdp": dict(devices=jax.devices()[:4], data=1, fsdp=4),
    "2 x 4 fsdp": dict(data=2, fsdp=4),
    "1": dict(devices=jax.devices()[:1]),
}


@pytest.mark.parametrize(
    ("old", "new"),
    slow_after(
        2,
        [
            ("4 fsdp", "1"),
            ("1", "2 x 4 fsdp"),
            ("8 replicated", "4 fsdp"),
            ("2 x 4 fsdp", "8 replicated"),
        ],
    ),
)
def test_a_state_comes_back_bit_for_bit_on_other_devices(tmp_path, tiny_mixer, old, new):
    old_abstract, new_abstract = (
        abstract_state(tiny_mixer, create_mesh(**MESHES[name])) for name in (old, new)
    )
    state = random_state(old_abstract)
    meta = {"config": {"seed": 1}, "log": {"train_seconds": 0.1 + 0.2}}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert newest_step(tmp_path / "c") is None
        checkpoints.save(3, state, meta)
    restored = restore_newest(tmp_path / "c", new_abstract)
    assert restored.step == 3
    assert_same_bits(restored.state, state)
    for leaf, expected in zip(*map(jax.tree.leaves, (restored.state, new_abstract)), strict=True):
        assert leaf.sharding == expected.sharding
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(restored.state)) == (
        "fsdp" in new
    )
    saved = {name: array["checksum"] for name, array in restored.meta["arrays"].items()}
    assert saved == array_checksums(state) == array_checksums(restored.state)
    assert restored.meta["step"] == 3
    assert restored.meta["config"] == meta["config"]
    assert restored.meta["log"] == meta["log"]
    assert restored.meta["versions"]["jax"] == jax.__version__


def test_a_bucket_stays_one_and_a_relative_path_becomes_absolute():
    folders = [str(checkpoint_folder(epath.Path(path))) for path in ("gs://b/run", "runs/digits")]
    assert folders == [
        "gs://b/run/checkpoints",
        str(pathlib.Path.cwd() / "runs/digits/checkpoints"),
    ]


def test_the_parameters_alone_or_their_average_come_back(tmp_path, state):
    average = jax.tree.map(lambda x: x + 1, state.params)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, {"class_names": ["a"]})
        checkpoints.save(2, state.replace(averaged_params=average), {})
    params, meta = read_checkpoint(tmp_path / "1")
    assert_same_bits(params, state.params)
    assert meta["class_names"] == ["a"]
    assert_same_bits(read_checkpoint(tmp_path / "2")[0], average)
    assert {type(leaf) for leaf in jax.tree.leaves(params)} == {np.ndarray}


def test_old_checkpoints_make_room(tmp_path, state):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {})
    kept = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == ["2", "3"]


def test_every_so_many_steps_and_the_best_one_stay(tmp_path, state):
    scores = {1: 0.5, 2: 0.7, 3: 0.7, 5: 0.6, 8: 0.65}  # 4, 6, 7 and 9 were not evaluated

    def save(steps: range) -> tuple[list[str], int]:
        restored = restore_newest(tmp_path, abstract_of(state))
        with Checkpoints(
            tmp_path,
            keep=1,
            keep_every=4,
            best_by="minival/top1",
            scores=restored.meta["scores"] if restored else {},
        ) as checkpoints:
            for step in steps:
                if step in scores:
                    checkpoints.record_scores(step, {"minival/top1": scores[step]})
                checkpoints.save(step, state, {})
            checkpoints.wait()
            best = checkpoints.best()
        kept = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
        return kept, int(best.removeprefix(f"{tmp_path}/").removesuffix(", by minival/top1"))

    assert save(range(1, 3)) == (["2"], 2)
    assert save(range(3, 6)) == (["3", "4", "5"], 3)  # of equals the later one
    assert save(range(6, 10)) == (["3", "4", "8", "9"], 3)
    scores[10] = 0.8
    assert save(range(10, 12)) == (["10", "11", "4", "8"], 10)
    saved = read_meta(tmp_path / "11")["scores"]
    assert saved == {"minival/top1": {"8": 0.65, "10": 0.8}}
    with Checkpoints(tmp_path, keep=1, best_by="test/top1", scores=saved) as checkpoints:
        assert checkpoints.best() == ""


def test_what_is_changed_after_the_call_is_not_saved(tmp_path, state, monkeypatch):
    json_save, given = ocp.args.JsonSave, []  # writes it at some later moment
    monkeypatch.setattr(ocp.args, "JsonSave", lambda item: given.append(item) or json_save(item))
    abstract, before = abstract_of(state), jax.device_get(state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        meta = {"log": {"window": [1.0]}}
        checkpoints.save(1, state, meta)
        meta["log"]["window"].append(2.0)
        assert given[0]["log"] == {"window": [1.0]}
        add_one = jax.jit(
            lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0
        )
        add_one(state)  # overwrites the buffers while they may still be written
    assert_same_bits(restore(tmp_path, 1, abstract), before)


def test_a_step_without_its_commit_file_does_not_count(tmp_path, state, capsys):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
    commits = list((tmp_path / "2").glob("*commit*"))
    assert commits
    for path in [*commits, tmp_path / "2" / "state" / "manifest.ocdbt"]:
        path.unlink()
    assert newest_step(tmp_path) == 1
    assert (tmp_path / "2").exists()  # only looked at: another process may be writing it
    assert newest_step(tmp_path / "3") is None
    assert restore_newest(tmp_path, abstract_of(state)).step == 1
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert (tmp_path / "2").exists()  # a run with nothing to save deletes nothing
        checkpoints.save(3, state, {})
    assert capsys.readouterr().out == "Checkpoint 2 was never completed. It is deleted.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_a_failed_read_leaves_no_noise(tmp_path, state, monkeypatch):
    noise = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
    (tmp_path / "1" / "state" / "manifest.ocdbt").unlink()
    for _ in range(10):
        with pytest.raises(DamagedCheckpoint):
            restore(tmp_path, 1, abstract_of(state))
    time.sleep(0.2)  # the reads that were pending end by themselves
    assert noise == []


def test_what_cannot_be_deleted_does_not_fail_the_save(tmp_path, state, monkeypatch, capsys):
    def refuse(deleter: object, steps: list[int]) -> None:
        if steps:
            raise PermissionError(f"may not delete {steps}")

    deleter = ocp.path.deleter.StandardCheckpointDeleter
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(deleter, "delete_steps", refuse)
            checkpoints.save(2, state, {})
            checkpoints.wait()
        message = f"Some checkpoints before {tmp_path}/2 could not be deleted: may not delete [1]\n"
        assert capsys.readouterr().out == message
        assert complete_steps(tmp_path) == [1, 2]
        checkpoints.save(3, state, {})
    assert complete_steps(tmp_path) == [3]


def test_a_failed_save_is_reported_and_tried_again_once(tmp_path):
    # A process of its own, whose files may not grow beyond 100 kB for a while.
    program = f"""
import pathlib, resource, time
import jax.numpy as jnp
from mixer.checkpoint.save import Checkpoints
directory = pathlib.Path({str(tmp_path)!r})
state = {{"kernel": jnp.arange(1e6)}}

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def await_failure():
    for _ in range(600):
        time.sleep(0.1)
        if checkpoints.is_due(0, is_regular=False):
            return

with Checkpoints(directory, keep=2) as checkpoints:
    checkpoints.save(1, state, {{}})
    checkpoints.save(2, state, {{}})
    checkpoints.wait()
    limit(100_000)
    checkpoints.save(3, state, {{}})
    await_failure()
    assert not checkpoints.is_saved(3)
    assert (directory / "3").exists()  # asking deletes nothing
    limit(resource.RLIM_INFINITY)
    checkpoints.save(4, state, {{}})  # the second try is waited for
    print(sorted(path.name for path in directory.iterdir()))
    assert (directory / "4" / "commit_success.txt").exists()
    limit(100_000)
    checkpoints.save(5, state, {{}})
    await_failure()
    checkpoints.save(6, state, {{}})
"""
    run = children.run([sys.executable, "-c", program])
    assert run.returncode == 1, run.stderr
    failure, retry, left, second_failure, second_retry = run.stdout.splitlines()
    assert failure.startswith(f"The checkpoint {tmp_path}/3 could not be written: ")
    assert "File too large" in failure
    assert retry == "Trying once more, with step 4."
    assert left == "['2', '4']"
    assert second_failure.startswith(f"The checkpoint {tmp_path}/5 could not be written: ")
    assert second_retry == "Trying once more, with step 6."
    last = run.stderr[run.stderr.rindex("OSError: ") :]
    assert last.startswith(f"OSError: The checkpoint {tmp_path}/6 could not be written: ")
    assert "Complete checkpoints there: 2, 4. " in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    for step in (2, 4):
        read_meta(tmp_path / str(step))
