"""Which split is read for a name, and which images are held out where nothing says it."""

import hashlib
import pathlib
import re
import unicodedata
from collections.abc import Collection, Sequence

from mixer.data.file_names import shown

SPLITS = ("train", "test", "validation", "val", "valid")  # in upper case, too

_VALIDATION = ("validation", "val", "valid")


def resolve_split(name: str, splits: Collection[str], where: str) -> str:
    """Returns the split to read for `name`: itself or, of held-out ones, the one that is there.

    Raises:
      ValueError: there is none. The message has the flags that work.
    """
    lower = {split.lower(): split for split in sorted(splits, reverse=True)}
    others = (
        (*_VALIDATION, "test") if name in _VALIDATION else _VALIDATION if name == "test" else ()
    )
    for candidate in (name, *others):
        if candidate in splits or candidate in lower:
            return candidate if candidate in splits else lower[candidate]
    fix = f"Name one of these, or a part such as {next(iter(splits))}[:90%]."
    if "train" in splits:
        fix = (
            "Hold out a part of train:\n  --config.train_split='train[:90%]' "
            "--config.eval_splits.test='train[90%:]'\nor, in scripts/evaluate.py, "
            "--split='train[90%:]'"
        )
    raise ValueError(
        f"Unknown split {name!r} of {where}. Expected one of: {', '.join(sorted(splits))}. {fix}"
    )


def held_out(class_name: str, names: Sequence[str]) -> frozenset[str]:
    """Returns about a tenth of the files of a class, which are not trained on; none of one file.

    A file is held out if the hash of its class and name is in the lowest tenth of all hashes:
    adding or deleting others does not move it. Only a class of which all files or none would be
    held out depends on the others: there, the file with the highest hash is trained on, or that
    with the lowest is held out. Of equal hashes (a name in two forms of Unicode), the order of the
    names decides.
    """

    def rank(name: str) -> tuple[bytes, str]:
        composed = unicodedata.normalize("NFC", f"{class_name}/{shown(name)}")
        return hashlib.sha256(composed.encode()).digest(), name

    if len(names) < 2:
        return frozenset()
    below = {name for name in names if int.from_bytes(rank(name)[0]) * 10 < 2**256}
    if len(below) == len(names):
        below.remove(max(names, key=rank))
    return frozenset(below or {min(names, key=rank)})


def check_split_name(name: str, root: pathlib.Path) -> None:
    """Raises ValueError if the name of a folder cannot be that of a split."""
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name.lower() == "all":
        raise ValueError(
            f"Expected one folder per split in {root}, named as TFDS names splits; got "
            f"{shown(name)!r}. Rename or remove it."
        )


def check_tar_names(paths: Sequence[pathlib.Path]) -> None:
    """Raises ValueError if all classes are tar files that are named as splits."""
    if all(path.stem.lower() in SPLITS and path.is_file() for path in paths):
        raise ValueError(
            f"Expected one tar file per class; got {paths[0]}, named as a split. Unpack it into "
            f"{paths[0].with_suffix('')}, so that this folder holds one folder per class."
        )
