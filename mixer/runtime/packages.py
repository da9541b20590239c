"""Packages that only some programs need, and that an installation may lack."""

import importlib.util
import re
import shlex
from collections.abc import Sequence


def check_installed(requirements: Sequence[str], purpose: str) -> None:
    """Raises ValueError unless the packages of pip's `requirements` are there.

    `purpose` continues "Expected the packages ...": "for the format onnx".
    """
    names = [re.split("[<>=]", requirement)[0] for requirement in requirements]
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ValueError(
            f"Expected the package{'s' * (len(names) > 1)} {', '.join(names)} {purpose}; got no "
            f"{', '.join(missing)}. Install: pip install {shlex.join(requirements)}"
        )
