"""`config.json` of a workdir: the config of its run."""

import json
from typing import Any

from etils import epath

from mixer.runtime.naming import naming


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """Returns the config of the run so far; {} if there is none that can be read."""
    try:
        return dict(json.loads((workdir / "config.json").read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def write_config(workdir: epath.Path, config: dict[str, Any]) -> None:
    """Writes the config of the run; a kill leaves the old file or the new one."""
    path = workdir / "config.json"
    temporary = path.with_name("config.json.tmp")
    with naming(path):
        temporary.write_text(json.dumps(config, indent=2) + "\n")
        temporary.replace(path)
