"""The images of a folder as examples: nothing is prepared or copied, each example is a file.

For millions of images, make a dataset with `scripts/prepare_dataset.py` instead: it stores them in
a few large files.
"""

import functools
import hashlib
import pathlib
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.file_names import shown
from mixer.data.folder import read_image_folder
from mixer.data.image_check import read_image
from mixer.data.order import permute
from mixer.data.overlap import Piece
from mixer.data.records import DamagedExample
from mixer.data.splits import resolve_split

_LABEL_DIGITS = 8  # an example is its label in this many digits, followed by the bytes of the file
_SAMPLES = 32  # images whose bytes are part of the fingerprint


class FolderRecords:
    """The images of one split as `Records`, in a fixed random order that mixes the classes."""

    def __init__(self, root: pathlib.Path, split: str):
        """Lists the images of a split; says what of the folder is not used.

        Args:
          root: a folder as `mixer/data/folder.py` describes it.
          split: a split, a slice such as `train[:90%]`, or a sum of these. A held-out split that
            is not there is replaced by the one that is: `val` is read as `test`.

        Raises:
          ValueError: the folder or the split does not exist or has no images, or a split has a
            class that the training split does not have.
          OSError: a folder cannot be read.
        """
        folder = read_image_folder(root)
        if tar := next((files.path for files in folder.classes if files.is_tar), None):
            raise ValueError(
                f"Expected class folders in {root}; got the tar file {tar}. Make a dataset of it:\n"
                f"  python scripts/prepare_dataset.py --images={root} --name=NAME"
            )
        self.class_names = tuple(folder.class_names())
        _say(folder.describe())
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._paths: list[pathlib.Path] = []
        self._labels: list[int] = []
        self._sizes: list[int] = []
        self.pieces: list[Piece] = []  # of a split: positions in its fixed order
        for part in split.split("+"):
            name = part.partition("[")[0].strip()
            found = resolve_split(name, folder.splits, str(root))
            if found != name:
                _say(f"{root}: there is no split {name}; {found} is read as {name}.")
            classes = [files for files in folder.classes if files.split == found]
            images = [
                (files.path / image, labels[files.class_name], size)
                for files in classes
                for image, size in zip(files.images, files.sizes, strict=True)
            ]
            piece = _chosen(part.strip(), name, len(images))
            self.pieces.append(piece._replace(place=found))
            for index in _mixed(len(images))[piece.start : piece.end]:
                path, label, num_bytes = images[index]
                self._paths.append(path)
                self._labels.append(label)
                self._sizes.append(num_bytes)
        if not self._paths:
            raise ValueError(f"Expected at least one image in {split!r} of {root}; got none.")
        self._root = root

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: np.ndarray) -> Sequence[bytes]:
        return [
            b"%0*d" % (_LABEL_DIGITS, self._labels[index]) + self._read(index)
            for index in indices.tolist()
        ]

    def _read(self, index: int) -> bytes:
        content, problem = read_image(self._paths[index])
        if problem:
            raise DamagedExample(f"{self.locate(index)} {problem}")
        return content

    def locate(self, index: int) -> str:
        return shown(str(self._paths[index]))

    def num_bytes(self) -> int:
        return sum(self._sizes)

    def fingerprint(self) -> str:
        """Returns a hash of the names, sizes and labels of all images, and the bytes of a few.

        A copy of the folder has the same one.
        """
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for path, size in zip(self._paths, self._sizes, strict=True):
            digest.update(f"\n{shown(str(path.relative_to(self._root)))} {size}".encode())
        for index in range(0, len(self), max(1, len(self) // _SAMPLES)):
            content, problem = read_image(self._paths[index])
            digest.update(content or problem.encode())
        return digest.hexdigest()[:16]


def parse(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns `image` (string `[n]`) and `labels` (int32 `[n, 1]`) of examples (string `[n]`)."""
    labels = tf.strings.to_number(tf.strings.substr(examples, 0, _LABEL_DIGITS), tf.int32)
    return {
        "image": tf.strings.substr(examples, _LABEL_DIGITS, 2**31 - 1),
        "labels": labels[:, None],
    }


def _chosen(part: str, name: str, size: int) -> Piece:
    """Returns the positions of a slice such as `train[:90%]` of the split `name`."""
    try:
        instruction = tfds.core.ReadInstruction.from_spec(part)
        (absolute,) = instruction.to_absolute({name: SimpleNamespace(num_examples=size)})
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"Expected splits such as train, train[:90%] or train[1000:2000], of {size:,} images; "
            f"got {part!r}."
        ) from error
    return Piece(name, absolute.from_ or 0, size if absolute.to is None else absolute.to)


def _mixed(size: int) -> np.ndarray:
    """Returns the fixed order of a split's images (int64 `[size]`), with the classes mixed."""
    return permute(np.arange(size), np.full(size, size), np.zeros(size, np.uint64))


@functools.cache  # once, however often and for whichever splits a folder is opened
def _say(line: str) -> None:
    if line:
        print(line, file=sys.stderr)
