"""Checkpoints in `WORKDIR/checkpoints/STEP`: what a run needs to go on, bit for bit.

Each holds the train state and a JSON item, `meta`: the config, the fingerprint of the data and
the versions of the libraries. There is nothing else to hold: batches and random numbers are
functions of (seed, step).
"""

import copy
import importlib.metadata
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import options as ocp_options

from mixer.train_state import TrainState

_VERSIONS_OF = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
)
_ATOMICITY = ocp_options.AtomicityOptions(mode=ocp_options.AtomicityMode.COMMIT_FILE)


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for the last save.

    Saves are asynchronous: the state is copied, and the loop goes on while the copy is written. A
    step becomes visible only when it is complete. An error of a save in the background is raised
    by the next call of `raise_failed_save`, `wait` or `save`, or on leaving the context.
    """

    def __init__(self, directory: epath.Path, *, keep: int):
        if not directory.is_absolute():  # asked first: a bucket would become a folder in this one
            directory = directory.absolute()
        self._manager = ocp.CheckpointManager(
            directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,  # made by the first save: a refused run leaves nothing behind
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
                atomicity_options=_ATOMICITY,
            ),
        )
        self._saving = False

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wait()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def read_meta(self, step: int) -> dict[str, Any]:
        """Returns the `meta` that step was saved with."""
        restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        return restored["meta"]

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Returns the state of that step, with the shapes and shardings of `abstract_state`."""
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        )
        return restored["state"]

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts to save; only a state whose metrics were found finite may come here."""
        versions = {name: importlib.metadata.version(name) for name in _VERSIONS_OF}
        meta = copy.deepcopy(meta)  # written in the background, while the log goes on
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                meta=ocp.args.JsonSave({**meta, "step": step, "versions": versions}),
            ),
        )
        self._saving = True

    def raise_failed_save(self) -> None:
        """Raises what went wrong in a save that has ended; cheap, so call it every step.

        Orbax keeps silent about a failed background save until somebody waits for it.
        """
        if self._saving and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is complete; raises what went wrong in it."""
        self._saving = False
        self._manager.wait_until_finished()


def newest_step(directory: epath.Path) -> int | None:
    """Returns the newest complete step in a folder of checkpoints, or None."""
    if not directory.is_dir():
        return None
    options = ocp.CheckpointManagerOptions(read_only=True, atomicity_options=_ATOMICITY)
    with ocp.CheckpointManager(directory, options=options) as manager:
        return manager.latest_step()


def read_checkpoint(step_directory: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parameters of a checkpoint and its `meta`, without the rest of the state.

    The parameters are the nested dict of the model, float32 arrays in host memory: their Polyak
    average, if the run kept one.
    """
    state, reader = step_directory / "state", ocp.PyTreeCheckpointer()
    tree = reader.metadata(state).item_metadata.tree
    name = "params" if tree["averaged_params"] is None else "averaged_params"
    item = {name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree[name])}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True)
    meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(step_directory / "meta")
    return reader.restore(state, args=args)[name], meta
