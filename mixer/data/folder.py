"""A folder of images as a dataset: `PATH/{train,test}/CLASS/*.{jpg,jpeg,png}`.

Nothing is prepared or copied: an example is a file. Classes are the names of the folders of the
training split, sorted. For millions of images make a dataset of few files instead
(`scripts/prepare_dataset.py`).
"""

import hashlib
import pathlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.order import permute
from mixer.errors import unknown_name

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_LABEL_DIGITS = 8  # an example is the label in this many digits, then the bytes of the file


class FolderRecords:
    """The images of one split, in a fixed random order: neighbours are not of one class.

    Raises:
      ValueError: the folder, the split or its images are not there, or a class is unknown.
    """

    def __init__(self, root: pathlib.Path, split: str):
        self.class_names = sorted(path.name for path in _split_folder(root, "train").iterdir())
        instruction = tfds.core.ReadInstruction.from_spec(split)
        name = split.partition("[")[0]
        paths = _list_images(_split_folder(root, name), self.class_names)
        size = len(paths)
        shuffled = permute(np.arange(size), np.full(size, size), np.zeros(size, np.uint64))
        (part,) = instruction.to_absolute({name: SimpleNamespace(num_examples=size)})
        self._paths = [paths[index] for index in shuffled[part.from_ : part.to]]
        if not self._paths:
            raise ValueError(f"The split {split!r} of {root} holds no image.")
        labels = {class_name: label for label, class_name in enumerate(self.class_names)}
        self._labels = [labels[path.parent.name] for path in self._paths]
        self._root = root

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return [
            b"%0*d" % (_LABEL_DIGITS, self._labels[index]) + self._paths[index].read_bytes()
            for index in indices.tolist()
        ]

    def locate(self, index: int) -> str:
        return str(self._paths[index])

    def num_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths)

    def fingerprint(self) -> str:
        """Returns a hash of the names alone: a look at millions of sizes would take minutes."""
        names = "\n".join(str(path.relative_to(self._root)) for path in self._paths)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def parse(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `image` (string `[n]`) and `labels` (int32 `[n, 1]`) of examples `[n]`."""
    labels = tf.strings.to_number(tf.strings.substr(examples, 0, _LABEL_DIGITS), tf.int32)
    return {
        "image": tf.strings.substr(examples, _LABEL_DIGITS, 2**31 - 1),
        "labels": labels[:, None],
    }


def _split_folder(root: pathlib.Path, name: str) -> pathlib.Path:
    folder = root / name
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in root.glob("*/"))) or "nothing"
        raise ValueError(
            f"Expected images in {folder}/CLASS/*.jpg|jpeg|png; there is no such folder ({root} "
            f"holds: {there}). Name a split that is there, or make the folder."
        )
    return folder


def _list_images(folder: pathlib.Path, class_names: list[str]) -> list[pathlib.Path]:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in _SUFFIXES)
    for name in {path.parent.name for path in paths}.difference(class_names):
        raise unknown_name(f"class folder in {folder}", name, class_names)
    return paths
