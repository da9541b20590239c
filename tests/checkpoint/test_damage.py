"""Damaged checkpoints: which are noticed, moved aside, refused; which one is used instead."""

import json
import pathlib
import re
import resource
import shutil
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath

from mixer.checkpoint.checksum import array_checksums, json_checksum
from mixer.checkpoint.folder import newest_step
from mixer.checkpoint.format import read_checkpoint
from mixer.checkpoint.restore import restore_newest
from mixer.checkpoint.save import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent
OF_THE_CLOCK = ("images_per_second_per_core", "train_seconds", "wall_seconds", "core_days")


Fault = Callable[[pathlib.Path, pathlib.Path], object]  # of a step, with the step before at hand


def small_state(offset: int) -> dict:
    return {
        "params": {"kernel": jnp.arange(600.0).reshape(20, 30) + offset, "bias": jnp.ones(30)},
        "averaged_params": None,
        "step": jnp.int32(offset),
    }


ABSTRACT = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), small_state(0)
)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("three_steps")
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, small_state(step), {"config": {"seed": 0}})
    return folder


@pytest.fixture
def folder(three_steps, tmp_path) -> pathlib.Path:
    """A folder of the checkpoints 1, 2 and 3."""
    return shutil.copytree(three_steps, tmp_path / "checkpoints")


def restore(folder: pathlib.Path, check=None):
    return restore_newest(folder, ABSTRACT, check)


def save_step_3(folder: pathlib.Path) -> None:
    with Checkpoints(folder, keep=3) as checkpoints:
        checkpoints.save(3, small_state(3), {})


def edit_meta(step: pathlib.Path, *, seal: bool = False, **changes: object) -> None:
    path = step / "meta" / "metadata"
    meta = json.loads(path.read_text()) | changes
    if seal:
        del meta["sha256"]
        meta["sha256"] = json_checksum(meta)
    path.write_text(json.dumps(meta))


def replace_state(step: pathlib.Path, change: Callable[[np.ndarray], object]) -> None:
    """Writes the arrays anew with other kernels: a fault that Orbax cannot see."""
    state = small_state(int(step.name))
    state["params"]["kernel"] = jnp.asarray(change(np.array(state["params"]["kernel"])))
    shutil.rmtree(step / "state")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(step / "state", state)


def flip_one_bit(kernel: np.ndarray) -> np.ndarray:
    kernel.view(np.uint32)[7, 11] ^= 1
    return kernel


def swap_two(kernel: np.ndarray) -> np.ndarray:
    kernel[[3, 4]] = kernel[[4, 3]]
    return kernel


def to_bfloat16(kernel: np.ndarray) -> np.ndarray:
    return kernel.astype(jnp.bfloat16)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max(files_of(folder), key=lambda path: path.stat().st_size)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def put(source: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a copy of a file or folder in the place of another."""
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


# name -> what is wrong, as the folder is called then, and the fault
FAULTS: dict[str, tuple[str, Fault]] = {
    "one bit": ("checksum", lambda step, old: replace_state(step, flip_one_bit)),
    "two rows swapped": ("checksum", lambda step, old: replace_state(step, swap_two)),
    "saved in bfloat16": ("arrays", lambda step, old: replace_state(step, to_bfloat16)),
    "another shape": ("arrays", lambda step, old: replace_state(step, lambda x: x[:10])),
    "arrays of another step": ("checksum", lambda step, old: put(old / "state", step / "state")),
    "truncated array": ("arrays", lambda step, old: truncate(largest_data(step))),
    "no arrays": ("arrays", lambda step, old: shutil.rmtree(step / "state")),
    "no meta": ("metadata", lambda step, old: shutil.rmtree(step / "meta")),
    "half of meta": ("metadata", lambda step, old: truncate(step / "meta" / "metadata")),
    "meta is a list": ("metadata", lambda step, old: (step / "meta/metadata").write_text("[1]")),
    "changed meta": ("metadata", lambda step, old: edit_meta(step, config={"seed": 1})),
    "meta of another step": ("metadata", lambda step, old: put(old / "meta", step / "meta")),
    "another step": ("metadata", lambda step, old: put(old, step)),
}


def largest_data(step: pathlib.Path) -> pathlib.Path:
    return largest_file(step / "state" / "d")


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_used(folder, name, capsys):
    reason, fault = FAULTS[name]
    fault(folder / "3", folder / "1")
    capsys.readouterr()
    restored = restore(folder)
    assert restored.step == 2
    assert array_checksums(restored.state) == array_checksums(small_state(2))
    aside = folder / f"3.damaged-{reason}"
    shown = capsys.readouterr().out
    assert shown.startswith(f"Checkpoint 3 is damaged: {reason}: ")
    assert shown.endswith(f"Renamed to {aside}.\n")
    assert aside.is_dir()
    save_step_3(folder)  # the step comes again
    assert restore(folder).step == 3
    fault(folder / "3", folder / "1")
    assert restore(folder).step == 2
    assert (folder / f"3.damaged-{reason}-2").is_dir()


@pytest.mark.parametrize(
    "name", ["_CHECKPOINT_METADATA", "state/_sharding", "state/array_metadatas", "meta/commit*"]
)
def test_what_orbax_does_not_need_is_not_missed(folder, name):
    for path in [*(folder / "3").glob(name)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    restored = restore(folder)
    assert restored.step == 3
    assert array_checksums(restored.state) == array_checksums(small_state(3))


@pytest.mark.parametrize("text", ['{"commit_timestamp_nsecs": 1e400}', '{"metrics": 3}', "[]", ""])
def test_nonsense_in_a_file_of_orbax_is_not_read(folder, text):
    for step in (2, 3):
        (folder / str(step) / "_CHECKPOINT_METADATA").write_text(text)
    replace_state(folder / "3", flip_one_bit)
    assert restore(folder).step == newest_step(folder) == 2
    save_step_3(folder)
    assert restore(folder).step == 3


def test_without_a_sound_checkpoint_there_is_an_error_and_nothing_is_moved(folder):
    truncate(folder / "1" / "meta" / "metadata")
    shutil.rmtree(folder / "2" / "state")
    replace_state(folder / "3", flip_one_bit)
    names = sorted(path.name for path in folder.iterdir())
    found = r"3: checksum: .*params/kernel.*\n  2: arrays: .*\n  1: metadata: .*"
    message = rf"(?s)is sound:\n  {found}To start over"
    for _ in range(2):  # also the second time
        with pytest.raises(ValueError, match=message):
            restore(folder)
        assert sorted(path.name for path in folder.iterdir()) == names
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    (folder / "3").rename(folder / "3.damaged-checksum")
    with pytest.raises(ValueError, match=r"is sound:\n  3.damaged-checksum\n"):
        restore(folder)


def test_what_is_refused_is_not_damaged_and_not_skipped(folder):
    def refuse(step: int, meta: dict) -> None:
        raise ValueError(f"not {step} of {meta['config']}")

    replace_state(folder / "3", flip_one_bit)
    with pytest.raises(ValueError, match="not 3 of {'seed': 0}"):
        restore(folder, refuse)
    shutil.rmtree(folder / "3")
    with pytest.raises(ValueError, match="not 2 of {'seed': 0}"):
        restore(folder, refuse)
    edit_meta(folder / "2", schema=2, seal=True)
    with pytest.raises(ValueError, match="schema 1 in .*/2; got schema 2. Use the version"):
        restore(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


def test_other_types_shapes_and_names_are_refused_with_the_difference(folder):
    wanted = {
        "params": {
            "kernel": jax.ShapeDtypeStruct((20, 31), jnp.float32),
            "scale": jax.ShapeDtypeStruct((30,), jnp.float32),
        },
        "averaged_params": None,
        "step": jax.ShapeDtypeStruct((), jnp.bfloat16),  # Orbax would convert
    }
    lines = [
        "step 3 does not fit .* (4 arrays):",
        "  params/bias: float32[30] saved, nothing needed",
        "  params/kernel: float32[20, 30] saved, float32[20, 31] needed",
        "  params/scale: nothing saved, float32[30] needed",
        "  step: int32[] saved, bfloat16[] needed\n",
    ]
    message = re.escape("\n".join(lines)).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=message):
        restore_newest(folder, wanted)


def test_arrays_that_claim_more_than_their_files_hold_are_not_read(folder):
    def rewrite(step: pathlib.Path, **changes: object) -> None:
        """Gives the stored kernel another shape, type or size of its pieces."""
        store = {"driver": "ocdbt", "base": f"file://{step}/state/"}
        files = tensorstore.KvStore.open(store).result()
        described = json.loads(files["params.kernel/.zarray"])
        files["params.kernel/.zarray"] = json.dumps(described | changes).encode()

    rewrite(folder / "3", chunks=[2**20, 2**14])  # 64 GiB for one piece
    rewrite(folder / "2", shape=[2**15, 2**15], chunks=[2**15, 2**15])  # 4 GiB
    before = memory_bytes()
    restored = restore(folder)
    assert restored.step == 1
    assert memory_bytes() - before < 2**28
    assert sorted(path.name for path in folder.iterdir()) == [
        "1",
        "2.damaged-arrays",
        "3.damaged-arrays",
    ]
    # As weights, with a signature that is right; nothing says what shape to expect.
    meta = json.loads((folder / "1/meta/metadata").read_text())
    claimed = {"dtype": "float32", "shape": [2**15, 2**15]}
    meta["arrays"]["params/kernel"] |= claimed
    rewrite(folder / "1", shape=claimed["shape"])
    edit_meta(folder / "1", seal=True, arrays=meta["arrays"])
    message = (
        r"checkpoints/1 is damaged: arrays: they claim 4,294,967,\d+ bytes, the files hold \d,"
    )
    with pytest.raises(ValueError, match=message):
        read_checkpoint(folder / "1")
    with pytest.raises(
        ValueError, match=r"params/kernel: float32\[32768, 32768\] saved, float32\[20"
    ):
        restore(folder)
    assert memory_bytes() - before < 2**28


def memory_bytes() -> int:
    """Returns the most memory that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(folder):
    with pytest.raises(ValueError, match=r"no checkpoint .*/99. Steps in .*checkpoints: 1, 2, 3\."):
        read_checkpoint(epath.Path(folder / "99"))


def test_damaged_parameters_are_not_used_as_weights(folder):
    params, meta = read_checkpoint(folder / "3")
    assert params["kernel"][0, 0] == 3
    assert meta["step"] == 3
    replace_state(folder / "3", flip_one_bit)
    with pytest.raises(ValueError, match="checkpoints/3 is damaged: checksum: .* params/kernel"):
        read_checkpoint(folder / "3")
    truncate(largest_data(folder / "2"))
    with pytest.raises(ValueError, match="checkpoints/2 is damaged: arrays: "):
        read_checkpoint(folder / "2")
