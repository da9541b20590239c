"""Which folder may be the workdir of a run."""

import os

from etils import epath

from mixer.checkpoint.folder import COMMIT_FILE, checkpoint_folder, complete_steps, exists
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
    run = None
    if exists(workdir / COMMIT_FILE):
        run = workdir.parent.parent
    elif complete_steps(workdir):
        run = workdir.parent
    if run:
        raise ValueError(
            f"Expected the folder of a run as --workdir; got checkpoints of one. Use "
            f"--workdir={run}."
        )
    if "://" in os.fspath(workdir) or is_lock_of_run(workdir / LOCK_NAME):
        return
    foreign = [name for name in _OVERWRITTEN if exists(workdir / name)]
    if foreign and not exists(workdir / "checkpoints"):
        raise ValueError(
            f"Expected the folder of a run, or a new one, as --workdir; {workdir} has "
            f"{', '.join(foreign)} of something else, which the run would overwrite. Use another "
            "--workdir."
        )
