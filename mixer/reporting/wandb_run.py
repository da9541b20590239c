"""The same metrics in Weights & Biases, which is optional."""

import os
import uuid
from typing import Any

from etils import epath

from mixer.runtime.naming import naming

REQUIREMENTS = ["wandb>=0.20"]


def open_wandb(project: str, workdir: epath.Path, config: dict[str, Any]) -> Any:
    """Returns the package's run for a workdir, new or resumed; None without a project.

    Its id is kept in `wandb_id.txt`. Metrics of steps that it already has are left as they are. A
    server is asked for, unless WANDB_MODE=offline, and the files lie in the workdir, or in the
    current folder if that is a bucket.

    Raises:
      ValueError: it did not start, as without a login.
    """
    if not project:
        return None
    import wandb

    path = workdir / "wandb_id.txt"
    with naming(path):
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        run_id = path.read_text().strip()
    is_bucket = "://" in os.fspath(workdir)
    try:
        return wandb.init(
            project=project,
            id=run_id,
            name=workdir.name,
            resume="allow",
            config=config,
            dir=None if is_bucket else os.fspath(workdir),
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise ValueError(f"Weights & Biases did not start: {error}") from error
