"""What cannot be read now is no damage: nothing is renamed, and no older step is used.

The errors are the system's: another user without permission, no more descriptors, folders that are
in the place of files. Where it takes a disk or a network to fail, the call fails by a patch.
"""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from cases import slow_after
from test_damage import largest_data, restore, small_state, truncate

from mixer.checkpoint.damage import DamagedCheckpoint, damage
from mixer.checkpoint.folder import complete_steps, newest_step
from mixer.checkpoint.format import read_checkpoint
from mixer.checkpoint.save import Checkpoints

ROOT = pathlib.Path(__file__).parent.parent.parent

PROGRAM = """
import os, pathlib, resource, sys
import jax
from test_damage import ABSTRACT
from mixer.checkpoint.format import read_checkpoint
from mixer.checkpoint.restore import restore_newest

folder, uid, descriptors = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
assert restore_newest(folder, ABSTRACT).step == 3  # everything is loaded and compiled
for line in sys.stdin:  # paths to forbid, one test each
    path = folder / line.strip()
    mode = path.stat().st_mode
    if uid:
        path.chmod(0)
        os.setresuid(uid, uid, 0)
    else:
        used = max(map(int, os.listdir("/proc/self/fd"))) + 1
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + descriptors, limits[1]))
    try:
        print(line.strip(), "restored", restore_newest(folder, ABSTRACT).step)
    except Exception as error:
        print(line.strip(), type(error).__name__, str(error).replace(chr(10), " "))
    if uid:
        os.setresuid(0, 0, 0)
        path.chmod(mode)
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
"""


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("sound") / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, small_state(step), {"config": {"seed": 0}})
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> pathlib.Path:
    """A folder of the checkpoints 1, 2 and 3."""
    return shutil.copytree(sound, tmp_path / "checkpoints")


def try_to_restore(folder: pathlib.Path, paths: list[str], *, uid: int = 0, descriptors: int = 0):
    """Returns what became of each attempt, with one path unreadable to the user `uid`."""
    shown = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(uid), str(descriptors)],
        input="\n".join(paths),
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'checkpoint'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in shown.stdout.splitlines() if line.split(" ")[0] in paths]
    assert len(lines) == len(paths), shown.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
    return lines


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_no_permission_is_no_damage(folder):
    for parent in folder.parents:  # as pytest makes them, only the owner may look in
        if parent.stat().st_mode & 0o111 != 0o111:
            parent.chmod(parent.stat().st_mode | 0o055)
    files = sorted(
        str(path.relative_to(folder))
        for path in folder.glob("3/state/**/*")
        if path.is_file() and path.name not in ("_sharding", "commit_success.txt", "process_0")
    )
    paths = ["3", "3/meta", "3/meta/metadata", "3/state", "3/state/d", "3/state/_METADATA"]
    # What a process wrote before all were joined is not needed any more, or in part.
    paths += [path for path in files if "ocdbt.process_0/" not in path]
    lines = try_to_restore(folder, paths, uid=65534)
    for line in lines:
        assert " OSError " in line, line
        assert " cannot be read now: " in line
        assert "ermission" in line or "PERMISSION" in line
        assert "That is not damage: nothing was renamed" in line


@pytest.mark.parametrize(
    ("numbers", "least"),
    slow_after(0, [((1, 30), 1), ((0, 1, 2, 3, 5, 8, 30), 3)]),
)
def test_too_many_open_files_are_no_damage(folder, numbers, least):
    outcomes = [try_to_restore(folder, ["."], descriptors=number)[0] for number in numbers]
    assert outcomes[-1] == ". restored 3"
    failures = [line for line in outcomes if "restored" not in line]
    assert len(failures) >= least
    for line in failures:
        assert line.startswith(". OSError "), line
        assert "Too many open files" in line or "RESOURCE_EXHAUSTED" in line


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize("call", ["os.lstat", "io.open"])
def test_a_disk_or_a_network_that_fails_is_no_damage(folder, call, number, monkeypatch):
    """The call fails for all paths in the newest step, as on a disk that is away."""
    real = {"os.lstat": os.lstat, "io.open": open}[call]

    def fail(path, *args, **kwargs):
        if isinstance(path, str | os.PathLike) and "checkpoints/3" in os.fspath(path):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        if call == "io.open":
            patch.setattr("builtins.open", fail)
        with pytest.raises(OSError, match=rf"cannot be read now: .*{os.strerror(number)}"):
            restore(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
    assert restore(folder).step == 3


def test_what_is_missing_or_cut_short_is_damage(folder):
    (folder / "3" / "state" / "_METADATA").unlink()
    (folder / "3" / "state" / "_METADATA").mkdir()
    truncate(largest_data(folder / "2"))
    assert restore(folder).step == 1
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["1", "2.damaged-arrays", "3.damaged-arrays"]


def test_an_error_in_a_step_that_reads_well_is_damage_and_too_little_memory_is_not(folder):
    for error, raised in (
        (ValueError("nonsense"), DamagedCheckpoint),
        (KeyError("name"), DamagedCheckpoint),
        (FileNotFoundError(errno.ENOENT, "gone"), DamagedCheckpoint),
        (MemoryError(), MemoryError),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte"), OSError),
        (ValueError("UNAVAILABLE: the bucket does not answer"), OSError),
        (PermissionError(errno.EACCES, "no"), OSError),
    ):
        cause = Exception("from a library")
        cause.__cause__ = error
        with pytest.raises(raised), damage(folder / "3", "arrays: they cannot be read"):
            raise cause
    shutil.rmtree(folder / "3")
    with pytest.raises(OSError, match="it has disappeared"), damage(folder / "3", "arrays"):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(folder, monkeypatch):
    link = folder.parent / "link"
    link.symlink_to(folder.parent / "not mounted")
    with pytest.raises(FileNotFoundError):
        newest_step(link)
    with pytest.raises(
        OSError, match="cannot be read now: .*not mounted|cannot be read now: .*link"
    ):
        restore(link)
    assert complete_steps(folder.parent / "nothing") == []
    with pytest.raises(ValueError, match="There is no checkpoint"):
        read_checkpoint(folder / "4")
