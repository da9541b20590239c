"""Makes small changes to the code, one at a time, and shows which of them the tests notice.

python scripts/mutate.py [NAME ...] [--list]

Each change is made in a copy of the repository, and the tests beside it must fail there. The exit
code is 1 if a change survives. All of them take about half an hour on 2 cores.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from absl import flags

from mixer.errors import unknown_name
from mixer.runtime import command

_LIST = flags.DEFINE_bool("list", False, "Print the names of the changes and exit.")

ROOT = pathlib.Path(__file__).resolve().parent.parent
_COPIED = ("mixer", "configs", "scripts", "tests", "docs", "pyproject.toml", "README.md")


def main(names: list[str]) -> None:
    # tests/ is no part of the installed package.
    sys.path.insert(0, str(ROOT))
    from tests.mutants import MUTANTS

    for name in names:
        if name not in MUTANTS:
            raise unknown_name("change", name, MUTANTS)
    if _LIST.value:
        print("\n".join(MUTANTS))
        return
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mixer-mutants-") as folder:
        copy = pathlib.Path(folder)
        for part in _COPIED:
            is_folder = (ROOT / part).is_dir()
            (shutil.copytree if is_folder else shutil.copy)(ROOT / part, copy / part)
        for name in names or MUTANTS:
            path, old, new, tests = MUTANTS[name]
            started = time.monotonic()
            verdict = _verdict(copy, path, old, new, tests)
            print(f"{verdict:9} {time.monotonic() - started:5.0f} s  {name}", flush=True)
            survivors += [name] if verdict != "noticed" else []
    if survivors:
        raise ValueError(f"The tests do not notice: {', '.join(survivors)}.")


def _verdict(copy: pathlib.Path, path: str, old: str, new: str, tests: str) -> str:
    """Returns "noticed" if the tests pass as the code is, and fail with `new` in place of `old`."""
    text = (copy / path).read_text()
    if text.count(old) != 1:
        return "not found"
    if not _pass(copy, tests):
        return "red"
    (copy / path).write_text(text.replace(old, new))
    try:
        return "survived" if _pass(copy, tests) else "noticed"
    finally:
        (copy / path).write_text(text)


def _pass(copy: pathlib.Path, tests: str) -> bool:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *tests.split()],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return run.returncode == 0


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
