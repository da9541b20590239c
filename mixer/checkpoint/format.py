"""One checkpoint, `CHECKPOINTS/STEP`: what it holds, and how to read it without trusting the disk.

Orbax writes two items:

  state  the arrays of the train state
  meta   JSON: `schema`; `step`; `arrays`, the type, shape and checksum of each array by its name;
         `versions` of the libraries; what the caller adds (config, data fingerprints, class names,
         log, scores); and `sha256` of all that

Orbax notices missing and truncated files, but neither a changed bit in an array nor an array that
it converts to another type.
"""

import functools
import importlib.metadata
import json
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from mixer.checkpoint.checksum import array_checksums, json_checksum, leaf_name
from mixer.checkpoint.damage import DamagedCheckpoint, damage
from mixer.checkpoint.folder import complete_steps, exists
from mixer.checkpoint.stored import check_size, check_stored, in_words
from mixer.train_state import TrainState

SCHEMA = 1
_VERSIONS_OF = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
)


def items_to_save(step: int, state: TrainState, meta: dict[str, Any]) -> ocp.args.Composite:
    """Returns both items for Orbax; computes the checksums of the arrays."""
    checksums = array_checksums(state)
    arrays = {
        name: {**kind, "checksum": checksums[name]}
        for name, kind in _kinds_of_arrays(state).items()
    }
    meta = {**meta, "schema": SCHEMA, "step": step, "arrays": arrays, "versions": _versions()}
    # A copy, as JSON holds it: Orbax writes it in the background, while the log changes.
    meta = json.loads(json.dumps(meta))
    return ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave({**meta, "sha256": json_checksum(meta)}),
    )


def read_meta(directory: epath.Path) -> dict[str, Any]:
    """Returns the `meta` of a checkpoint.

    Raises:
      DamagedCheckpoint: it is not what was saved.
      ValueError: it is, but another version of this code wrote it.
      OSError: it cannot be read now.
    """
    with damage(directory, "metadata: it cannot be read"):
        meta = ocp.JsonCheckpointHandler().restore(directory / "meta")
        found = meta.pop("sha256")
    if found != json_checksum(meta):
        raise DamagedCheckpoint("metadata: its checksum does not match")
    if meta.get("schema") != SCHEMA:
        raise ValueError(
            f"Expected a checkpoint of schema {SCHEMA} in {directory}; got schema "
            f"{meta.get('schema')}. Use the version of this code that wrote it."
        )
    with damage(directory, "metadata: it is malformed"):  # anybody can compute a checksum
        int(meta["step"])
        for array in meta["arrays"].values():
            np.empty(0, array["dtype"]).view(np.uint8)  # raises for objects
            _ = [range(size) for size in array["shape"]]
            str(array["checksum"])
    return meta


def check_fits(meta: dict[str, Any], abstract_state: TrainState) -> None:
    """Raises ValueError unless the checkpoint has the arrays of `abstract_state`."""
    expected = _kinds_of_arrays(abstract_state)
    saved = {
        name: {"dtype": array["dtype"], "shape": array["shape"]}
        for name, array in meta["arrays"].items()
    }
    differing = [
        f"{name}: {in_words(saved.get(name))} saved, {in_words(expected.get(name))} needed"
        for name in sorted(saved.keys() | expected.keys())
        if saved.get(name) != expected.get(name)
    ]
    if differing:
        raise ValueError(
            f"The checkpoint of step {meta['step']} does not fit the config's model and optimizer "
            f"({len(differing)} arrays):\n  " + "\n  ".join(differing[:5]) + "\nUse another "
            "--workdir, or the config that it was trained with."
        )


def read_state(directory: epath.Path, abstract_state: TrainState) -> TrainState:
    """Returns the state with the shapes, types and shardings of `abstract_state`; unverified.

    Waits for no other process, unlike Orbax's managers: one that fails leaves none waiting.

    Raises:
      DamagedCheckpoint: the files are not those of such a state, or not all are there.
      OSError: they cannot be read now.
    """
    check_stored(directory, _kinds_of_arrays(abstract_state))
    args = ocp.args.StandardRestore(abstract_state)
    return _read_arrays(ocp.StandardCheckpointHandler(), directory, args)


def check_arrays(meta: dict[str, Any], tree: Any) -> None:
    """Raises DamagedCheckpoint unless the arrays of a state, or of a part of it, are those saved.

    All processes must call it, see `array_checksums`.
    """
    changed = [
        name
        for name, checksum in array_checksums(tree).items()
        if checksum != meta["arrays"][name]["checksum"]
    ]
    if changed:
        others = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise DamagedCheckpoint(
            f"checksum: the bits of {', '.join(changed[:3])}{others} have changed"
        )


def read_checkpoint(directory: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters of a checkpoint and its `meta`, without the rest of the state.

    The parameters are the nested dict of the model, float32 arrays in host memory: their Polyak
    average, if the run kept one.

    Raises:
      ValueError: there is no such checkpoint, or it is not what was saved.
      OSError: it cannot be read now.
    """
    if not exists(directory):
        steps = ", ".join(map(str, complete_steps(directory.parent))) or "none"
        raise ValueError(
            f"There is no checkpoint {directory}. Steps in {directory.parent}: {steps}."
        )
    try:
        meta = read_meta(directory)
        return _read_params(directory, meta), meta
    except DamagedCheckpoint as damage:
        raise ValueError(
            f"The checkpoint {directory} is damaged: {damage}. Use another one of the run."
        ) from damage


def _read_params(directory: epath.Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Returns the nested dict of the parameters to use, verified arrays in host memory.

    Raises:
      DamagedCheckpoint: they are not what was saved.
    """
    is_averaged = any(name.startswith("averaged_params/") for name in meta["arrays"])
    top = "averaged_params" if is_averaged else "params"
    arrays = {name: kind for name, kind in meta["arrays"].items() if name.startswith(f"{top}/")}
    check_size(directory, arrays)
    check_stored(directory, arrays)
    item = flax.traverse_util.unflatten_dict(
        {
            name: jax.ShapeDtypeStruct(array["shape"], array["dtype"])
            for name, array in arrays.items()
        },
        sep="/",
    )
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    tree = _read_arrays(ocp.PyTreeCheckpointHandler(), directory, args)
    check_arrays(meta, tree)
    return tree[top]


def _read_arrays(handler: Any, directory: epath.Path, args: Any) -> Any:
    with damage(directory, "arrays: they cannot be read"):
        return handler.restore(directory / "state", args=args)


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _VERSIONS_OF}


def _kinds_of_arrays(tree: Any) -> dict[str, dict[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        leaf_name(path): {"dtype": str(leaf.dtype), "shape": list(leaf.shape)}
        for path, leaf in leaves
    }
