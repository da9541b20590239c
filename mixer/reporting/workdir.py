"""Which folder may be the workdir of a run."""

import os

from etils import epath

from mixer.checkpoint.folder import checkpoint_folder, complete_steps, exists
from mixer.reporting.metrics import FILE_NAME
from mixer.runtime.workdir_lock import LOCK_NAME, is_lock_of_run

_OVERWRITTEN = ("config.json", FILE_NAME, "curves.png", "train_images.png")


def check_workdir(workdir: epath.Path) -> None:
    """Checks a workdir before anything is written to it.

    Raises:
      ValueError: it is a file, or the folder of a run's checkpoints; or it holds files of the names
        that a run writes, but is not the folder of a run.
      OSError: it cannot be read.
    """
    workdir = checkpoint_folder(workdir).parent
    if exists(workdir) and not workdir.is_dir():
        raise ValueError(f"Expected a folder as --workdir; got the file {workdir}.")
    if run := _run_of_checkpoints(workdir):
        raise ValueError(
            "Expected the folder of a run as --workdir; got its checkpoints, or one of them. Use "
            f"--workdir={run}."
        )
    checkpoints = checkpoint_folder(workdir)
    if exists(checkpoints) and not checkpoints.is_dir():
        raise ValueError(
            f"Expected {checkpoints} to be a folder, or not to exist; got a file, or a link to a "
            "folder that is not there. Mount it, or move the file away."
        )
    if "://" in os.fspath(workdir) or is_lock_of_run(workdir / LOCK_NAME):
        return
    foreign = [name for name in _OVERWRITTEN if exists(workdir / name)]
    if foreign and not exists(checkpoints):
        raise ValueError(
            f"Expected the folder of a run, or a new one, as --workdir; {workdir} has "
            f"{', '.join(foreign)} of something else, which the run would overwrite. Use another "
            "--workdir."
        )


def _run_of_checkpoints(folder: epath.Path) -> epath.Path | None:
    """Returns the folder of the run if a folder is that of its checkpoints, or one of these."""
    for inside in (folder, folder.parent):
        is_of_run = is_lock_of_run(inside.parent / LOCK_NAME) and inside.name == "checkpoints"
        if is_of_run or (exists(inside) and inside.is_dir() and complete_steps(inside)):
            return inside.parent
    return None
