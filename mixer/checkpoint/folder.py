"""The folder of a run's checkpoints, `WORKDIR/checkpoints`: which steps are complete, which stay.

Every save ends by writing a commit file; a save that was cut short leaves its step without one.
Whatever else lies in the folder, or in the folder of a step, belongs to somebody else: it is never
deleted.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import options as ocp_options
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PolicyCheckpointInfo,
    PreservationContext,
    PreservationPolicy,
)

ATOMICITY = ocp_options.AtomicityOptions(mode=ocp_options.AtomicityMode.COMMIT_FILE)
COMMIT_FILE = "commit_success.txt"
_LARGEST_STEP = 2**31 - 1  # processes tell each other steps as int32
# Files and folders that Orbax writes into the folder of a step, `.__lock` while it writes one.
_FOLDER = r"(state|meta|d|array_metadatas|ocdbt\.process_\d+)"
_FILE = (
    rf"({re.escape(COMMIT_FILE)}|_CHECKPOINT_METADATA|_METADATA|_sharding|metadata|manifest\.ocdbt|"
    r"process_\d+|[0-9a-f]{32})(\.__lock)?"
)
_WRITTEN = re.compile(f"({_FOLDER}/)*({_FOLDER}|{_FILE})")


def checkpoint_folder(workdir: epath.Path) -> epath.Path:
    """Returns `WORKDIR/checkpoints` as the absolute path that Orbax needs."""
    if (
        not workdir.is_absolute()
    ):  # asked first, as `absolute` would turn a bucket into a local folder
        workdir = workdir.absolute()
    return epath.Path(workdir) / "checkpoints"


def complete_steps(directory: epath.Path) -> list[int]:
    """Returns the complete steps in a folder of checkpoints, in ascending order.

    Raises:
      OSError: the folder, or one of its steps, cannot be read.
    """
    return [step for step in _steps(directory) if exists(directory / str(step) / COMMIT_FILE)]


def unfinished_steps(directory: epath.Path) -> list[int]:
    """Returns the steps whose save was cut short, in ascending order; an empty folder is none.

    Raises:
      OSError: as `complete_steps`.
    """
    return [
        step
        for step in _steps(directory)
        if is_folder(directory / str(step))
        and not exists(directory / str(step) / COMMIT_FILE)
        and names(directory / str(step))
        and not foreign_names(directory / str(step))
    ]


def newest_step(directory: epath.Path) -> int | None:
    """Returns the newest complete step in a folder of checkpoints, or None.

    Raises:
      OSError: as `complete_steps`.
    """
    return max(complete_steps(directory), default=None)


def foreign_steps(directory: epath.Path) -> dict[str, str]:
    """Returns what looks like a step but is none of a run: name -> what is wrong with it.

    Raises:
      OSError: as `complete_steps`.
    """
    found = {}
    for name in sorted(filter(str.isdecimal, names(directory))):
        if not _is_step(name):
            found[name] = f"its name is not that of a step, 0 to {_LARGEST_STEP}"
        elif not is_folder(directory / name):
            found[name] = "it is not a folder"
        elif not exists(directory / name / COMMIT_FILE) and (
            foreign := foreign_names(directory / name)
        ):
            found[name] = f"it holds {foreign[0]}, which no run writes, and no {COMMIT_FILE}"
    return found


def record_of(directory: epath.Path) -> epath.Path:
    """Returns the file beside a folder of checkpoints that records the newest complete one.

    It shows a run whose checkpoints are gone, or not mounted, that it is not new.
    """
    return directory.with_name(f"{directory.name}.txt")


def names(directory: epath.Path) -> set[str]:
    """Returns the names in a folder; none if there is no such folder."""
    return {path.name for path in directory.iterdir()} if exists(directory) else set()


def foreign_names(folder: epath.Path, inside: str = "") -> list[str]:
    """Returns the files and folders in the folder of a step that Orbax does not write."""
    found = []
    for base, is_linked, is_inner in sorted(_entries(folder)):
        name = inside + base
        if not _WRITTEN.fullmatch(name) or is_linked:
            found.append(name)
        elif is_inner:
            found += foreign_names(folder / base, f"{name}/")
    return found


def _entries(folder: epath.Path) -> list[tuple[str, bool, bool]]:
    """Returns the names in a folder, and of each whether it is a link and whether a folder."""
    if "://" in os.fspath(folder):
        return [(path.name, False, path.is_dir()) for path in folder.iterdir()]
    with os.scandir(folder) as entries:  # with fewer calls of the system: a save waits for it
        return [(entry.name, entry.is_symlink(), entry.is_dir()) for entry in entries]


def exists(path: epath.Path) -> bool:
    """Returns whether a path exists. Unlike `path.exists`, never False for what cannot be read."""
    return bool(_mode(path))


def is_folder(path: epath.Path) -> bool:
    """Returns whether a path is a folder, and not a link to one; raises like `exists`."""
    return stat.S_ISDIR(_mode(path))


def is_link(path: epath.Path) -> bool:
    return stat.S_ISLNK(_mode(path))


def _mode(path: epath.Path) -> int:
    """Returns the type of a file as `os.lstat` does, 0 if there is none."""
    if "://" in os.fspath(path):
        return stat.S_IFDIR if path.is_dir() else stat.S_IFREG if path.exists() else 0
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _steps(directory: epath.Path) -> list[int]:
    """Returns the steps in a folder of checkpoints, complete or not, in ascending order."""
    return sorted(int(name) for name in names(directory) if _is_step(name))


def _is_step(name: str) -> bool:
    return bool(re.fullmatch("0|[1-9][0-9]{0,9}", name)) and int(name) <= _LARGEST_STEP


class StepNames(ocp.path.step.NameFormat[ocp.path.step.Metadata]):
    """Shows Orbax the complete steps and nothing else of a folder."""

    def build_name(self, step: int) -> str:
        return str(step)

    def find_all(self, base_path: epath.PathLike) -> Iterator[ocp.path.step.Metadata]:
        folder = epath.Path(base_path)
        for step in complete_steps(folder):
            yield ocp.path.step.Metadata(step=step, path=folder / str(step))

    def find_step(self, base_path: epath.PathLike, step: int) -> ocp.path.step.Metadata:
        for metadata in self.find_all(base_path):
            if metadata.step == step:
                return metadata
        raise ValueError(f"There is no step {step} in {base_path}.")


def preservation_policy(
    directory: epath.Path, keep: int, keep_every: int, scores: Mapping[int, float]
) -> PreservationPolicy:
    """Returns Orbax's policy for the steps that stay.

    These are the last `keep`, the multiples of `keep_every` (0: no others), the best of those that
    have a score by then, and any with a file that this run did not write.
    """
    policies = [LatestN(keep), _Best(scores)] + [EveryNSteps(keep_every)] * (keep_every > 0)
    return _OnlyOwn(directory, AnyPreservationPolicy(policies))


class _OnlyOwn(PreservationPolicy):
    """Keeps a step as well if its folder holds more than this run wrote, or is a copy of another's.

    Orbax would delete it with all that is in it.
    """

    def __init__(self, directory: epath.Path, policy: PreservationPolicy):
        self._directory = directory
        self._policy = policy

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        kept = self._policy.should_preserve(checkpoints, context=context)
        return [
            is_kept or not self._is_own(self._directory / str(checkpoint.step))
            for is_kept, checkpoint in zip(kept, checkpoints, strict=True)
        ]

    def _is_own(self, step: epath.Path) -> bool:
        try:
            # Orbax writes the path into the commit file.
            written_to = (step / COMMIT_FILE).read_text().rpartition("/")[2]
            return written_to == step.name and is_folder(step) and not foreign_names(step)
        except (OSError, ValueError):
            return False


class _Best(PreservationPolicy):
    """Keeps the best step.

    Orbax's own policy stores the scores in files that it does not verify; a damaged one stops it.
    """

    def __init__(self, scores: Mapping[int, float]):
        self._scores = scores

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        best = best_step([checkpoint.step for checkpoint in checkpoints], self._scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


def best_step(steps: Sequence[int], scores: Mapping[int, float]) -> int | None:
    """Returns the step with the highest score, the latest of equal ones; None without scores."""
    scored = [(scores[step], step) for step in steps if step in scores]
    return max(scored)[1] if scored else None
