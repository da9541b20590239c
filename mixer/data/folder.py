"""A folder of images as a dataset: `PATH/{train,test}/CLASS/*.{jpg,jpeg,png}`.

Nothing is prepared or copied: each example is a file. The classes are the names of the folders in
the training split, sorted. For millions of images, make a dataset with `scripts/prepare_dataset.py`
instead: it stores them in a few large files.
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
_LABEL_DIGITS = 8  # an example is its label in this many digits, followed by the bytes of the file


class FolderRecords:
    """The images of one split as `Records`, in a fixed random order that mixes the classes."""

    def __init__(self, root: pathlib.Path, split: str):
        """Lists the images in ROOT/SPLIT/CLASS.

        Args:
          root: the folder that holds the splits.
          split: the name of a folder in it, or a slice such as `train[:90%]`.

        Raises:
          ValueError: the folder or the split does not exist, it has no images, or one of its
            classes is not in the training split.
        """
        self.class_names = sorted(path.name for path in _split_folder(root, "train").iterdir())
        instruction = tfds.core.ReadInstruction.from_spec(split)
        name = split.partition("[")[0]
        paths = _list_images(_split_folder(root, name), self.class_names)
        size = len(paths)
        shuffled = permute(np.arange(size), np.full(size, size), np.zeros(size, np.uint64))
        (part,) = instruction.to_absolute({name: SimpleNamespace(num_examples=size)})
        self._paths = [paths[index] for index in shuffled[part.from_ : part.to]]
        if not self._paths:
            raise ValueError(f"Expected at least one image in {split!r} of {root}; got none.")
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
        """Returns a hash of the file names only, since reading millions of sizes takes minutes."""
        names = "\n".join(str(path.relative_to(self._root)) for path in self._paths)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def parse(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `image` (string `[n]`) and `labels` (int32 `[n, 1]`) of examples (string `[n]`)."""
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
            f"holds: {there}). Name an existing split, or create the folder."
        )
    return folder


def _list_images(folder: pathlib.Path, class_names: list[str]) -> list[pathlib.Path]:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in _SUFFIXES)
    for name in {path.parent.name for path in paths}.difference(class_names):
        raise unknown_name(f"class folder in {folder}", name, class_names)
    return paths
