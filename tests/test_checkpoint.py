"""Checkpoints: round trip, other devices, retention, unfinished and failed saves."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath

from mixer.checkpoint import Checkpoints, newest_step, read_checkpoint
from mixer.sharding import create_mesh
from mixer.train_state import TrainState, create_train_state


def make_state(model, mesh) -> tuple[TrainState, TrainState]:
    abstract, init = create_train_state(
        model, optax.adam(1e-3), image_size=8, seed=0, averaged=False, mesh=mesh
    )
    return abstract, init({})


def assert_same_bits(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_state_comes_back_bit_for_bit_on_any_number_of_devices(
    tmp_path, tiny_mixer, one_device_mesh
):
    _, state = make_state(tiny_mixer, create_mesh())
    meta = {"config": {"seed": 1}, "log": {"train_seconds": 0.1 + 0.2}}
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(3, state, meta)
    abstract, _ = make_state(tiny_mixer, one_device_mesh)
    with Checkpoints(tmp_path / "c", keep=1) as checkpoints:
        assert checkpoints.latest_step() == 3
        restored = checkpoints.restore(3, abstract)
        saved = checkpoints.read_meta(3)
    assert_same_bits(restored, state)
    assert all(leaf.sharding.mesh.size == 1 for leaf in jax.tree.leaves(restored))
    assert saved["step"] == 3
    assert saved["config"] == meta["config"]
    assert saved["log"] == meta["log"]
    assert saved["versions"]["jax"] == jax.__version__


def test_a_bucket_stays_one_and_a_relative_path_becomes_absolute(monkeypatch):
    opened = []
    monkeypatch.setattr(ocp, "CheckpointManager", lambda path, options: opened.append(str(path)))
    for path in ("gs://bucket/run", "runs/digits"):
        Checkpoints(epath.Path(path), keep=1)
    assert opened == ["gs://bucket/run", str(pathlib.Path.cwd() / "runs/digits")]


def test_the_parameters_alone_or_their_average_come_back(tmp_path, tiny_mixer, one_device_mesh):
    _, state = make_state(tiny_mixer, one_device_mesh)
    average = jax.tree.map(lambda x: x + 1, state.params)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, state, {"class_names": ["a"]})
        checkpoints.save(2, state.replace(averaged_params=average), {})
    params, meta = read_checkpoint(tmp_path / "1")
    assert_same_bits(params, state.params)
    assert meta["class_names"] == ["a"]
    assert_same_bits(read_checkpoint(tmp_path / "2")[0], average)
    assert {type(leaf) for leaf in jax.tree.leaves(params)} == {np.ndarray}


def test_old_checkpoints_make_room(tmp_path, tiny_mixer, one_device_mesh):
    _, state = make_state(tiny_mixer, one_device_mesh)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, {})
    kept = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == ["2", "3"]


def test_what_is_changed_after_the_call_is_not_saved(
    tmp_path, tiny_mixer, one_device_mesh, monkeypatch
):
    json_save, given = ocp.args.JsonSave, []  # writes it at some later moment
    monkeypatch.setattr(ocp.args, "JsonSave", lambda item: given.append(item) or json_save(item))
    abstract, state = make_state(tiny_mixer, one_device_mesh)
    before = jax.device_get(state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        meta = {"log": {"window": [1.0]}}
        checkpoints.save(1, state, meta)
        meta["log"]["window"].append(2.0)
        assert given[0]["log"] == {"window": [1.0]}
        add_one = jax.jit(
            lambda s: jax.tree.map(lambda x: x + jnp.ones_like(x), s), donate_argnums=0
        )
        add_one(state)  # overwrites the buffers while they may still be written
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert_same_bits(checkpoints.restore(1, abstract), before)


def test_a_step_without_its_commit_file_does_not_count(tmp_path, tiny_mixer, one_device_mesh):
    _, state = make_state(tiny_mixer, one_device_mesh)
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
    commits = list((tmp_path / "2").glob("*commit*"))
    assert commits
    for path in commits:
        path.unlink()
    assert newest_step(tmp_path) == 1
    assert (tmp_path / "2").exists()  # only looked at: another process may be writing it
    assert newest_step(tmp_path / "3") is None
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 1


def test_a_save_that_failed_in_the_background_is_reported(tmp_path):
    # A process of its own, whose files may not grow beyond 100 kB from the second save on.
    program = f"""
import pathlib, resource, time
import jax.numpy as jnp
from mixer.checkpoint import Checkpoints
checkpoints = Checkpoints(pathlib.Path({str(tmp_path)!r}), keep=3)
state = {{"kernel": jnp.arange(1e6)}}
checkpoints.save(1, state, {{}})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoints.save(2, state, {{}})
print("saving")
for _ in range(600):
    time.sleep(0.1)
    checkpoints.raise_failed_save()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "saving\n"
    assert run.returncode == 1
    assert "File too large" in run.stderr
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        assert checkpoints.latest_step() == 1
