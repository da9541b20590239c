"""Opens a dataset on disk by its name in a config: records, a parser and the classes."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data import folder_records
from mixer.data.digits import Digits
from mixer.data.features import check_features, find_features, parser
from mixer.data.not_prepared import not_prepared
from mixer.data.overlap import Piece, check_distinct
from mixer.data.records import ArrayRecords, CachedRecords, Files, RandomSubset, Records
from mixer.data.row import DatasetRow
from mixer.data.splits import resolve_split
from mixer.data.table import DATASETS, tfds_split
from mixer.data.tfrecords import TFRecords
from mixer.errors import unknown_name

_MAX_METADATA = 2**24  # bytes of features.json


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of one dataset.

    `parse` is a TensorFlow function from examples (string `[n]`), as `records` returns them, to
    `image`, encoded JPEGs or PNGs (string `[n]`), and `labels`, int32 `[n, labels_per_image]`,
    padded with -1.
    """

    num_classes: int
    class_names: tuple[str, ...]  # in the order of the labels
    labels_per_image: int  # the most that an image can have
    records: Records
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    pieces: tuple[Piece, ...]  # where the examples are, before `fraction`; see `count_shared`


def why_missing(name: str, split: str, data_dir: str) -> str:
    """Returns why a split cannot be opened, and how to get it; "" if it can."""
    try:
        open_dataset(name, split, data_dir)
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def open_dataset(
    name: str, split: str, data_dir: str, *, fraction: float = 1.0, label_key: str = ""
) -> Dataset:
    """Opens one split of a dataset on disk; the digits are written on first use.

    Args:
      name: a key of `DATASETS` or the name of a dataset made by `scripts/prepare_dataset.py`, with
        a version (`cifar10:3.0.2`) or without one (the row's, or the newest); or `folder:PATH`.
      split: a split as TFDS writes it, such as `train[:99%]`, or a name of the row. Of a folder,
        and of a dataset that is not in the table, `test` and `validation` also name the other, if
        only that is there.
      data_dir: TFDS's data folder; "" for TFDS's default (TFDS_DATA_DIR or ~/tensorflow_datasets).
      fraction: the fraction of the split to use, in (0, 1]: a fixed random subset.
      label_key: the feature that is the label, of a dataset not in the table; "" for `label`.

    Returns:
      The split, with its metadata read and its examples unread.

    Raises:
      ValueError: the name, split or fraction is invalid, the split has an example twice, the
        dataset is not on disk, its metadata are damaged or do not match the table of datasets, or a
        feature is of a kind that cannot be used.
      OSError: a folder of images cannot be read.
    """
    kind, _, path = name.partition(":")
    if kind == "folder":
        if not path:
            raise ValueError("Expected folder:PATH; got 'folder:' without a path.")
        images = folder_records.FolderRecords(pathlib.Path(path).expanduser(), split)
        names = images.class_names
        check_distinct(images.pieces, split, path)
        records, pieces = _subset(images, fraction), tuple(images.pieces)
        return Dataset(len(names), names, 1, records, folder_records.parse, pieces)
    default = tfds.core.constants.get_default_data_dir()
    row, info = _find_dataset(name, os.path.expanduser(data_dir or default), label_key)
    if row.tfds_name not in {known.tfds_name for known in DATASETS.values()}:
        split = _resolve(split, info)
    files = _find_files(info, tfds_split(name, split))
    check_distinct(files.pieces(), split, name)
    records = _subset(_open_records(info, split, files), fraction)
    class_names = tuple(check_features(info, row, sets=True).names)
    if len(class_names) != row.num_classes:
        raise ValueError(
            f"Expected {row.num_classes} class names in {info.data_dir}; got {len(class_names)}. "
            "Prepare the dataset again."
        )
    pieces = tuple(files.pieces())
    return Dataset(row.num_classes, class_names, row.max_labels, records, parser(row), pieces)


def cached(dataset: Dataset, cache: str, indices: np.ndarray) -> Dataset:
    """Returns the dataset: unchanged if `cache` is "none", held in memory if it is "raw".

    "raw" reads the encoded examples at `indices` (int64 `[n]`); no others can be read afterwards.

    Raises:
      ValueError: `cache` is unknown, or the examples do not fit into memory.
    """
    if cache not in ("none", "raw"):
        raise unknown_name("cache", cache, ("none", "raw"))
    if cache == "none":
        return dataset
    return dataclasses.replace(dataset, records=CachedRecords(dataset.records, indices, print))


def _subset(records: Records, fraction: float) -> Records:
    return records if fraction == 1.0 else RandomSubset(records, fraction)


def _find_dataset(
    name: str, data_dir: str, label_key: str
) -> tuple[DatasetRow, tfds.core.DatasetInfo]:
    base, _, version = name.partition(":")
    if base == "digits" and str(Digits.VERSION) not in _list_versions(f"{data_dir}/digits"):
        _write_digits(data_dir)
    row = DATASETS.get(base)
    root = f"{data_dir}/{row.tfds_name if row else base}"
    versions = _list_versions(root)
    version = version or (row.version if row else "")
    found = [v for v in versions if version in ("", v)]
    if not found:
        raise not_prepared(name, row, version, root, versions, data_dir)
    info = _read_info(f"{root}/{found[-1]}")
    if row is None:
        return find_features(info, base, label_key), info
    if label_key not in ("", row.label_key):
        raise ValueError(f"Expected no label_key for {name}: it is known; got {label_key!r}.")
    num_classes = check_features(info, row, sets=True).num_classes
    if num_classes != row.num_classes:
        raise ValueError(
            f"Expected {row.num_classes} classes in {root}/{found[-1]}; its labels have "
            f"{num_classes}. This is another dataset, or it was prepared with another class list."
        )
    return row, info


def _read_info(folder: str) -> tfds.core.DatasetInfo:
    """Returns the metadata in the JSON files of a dataset.

    Raises:
      ValueError: they cannot be read, or name feature classes outside TFDS.
    """
    try:
        with tf.io.gfile.GFile(f"{folder}/features.json") as file:
            _check_features(json.loads(file.read(_MAX_METADATA)))
        return tfds.builder_from_directory(folder).info
    except Exception as error:  # JSON, protobuf and TFDS raise many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"Expected valid TFDS metadata in {folder}; got damaged or foreign files: "
            f"{reason[:300]}. Prepare the dataset again."
        ) from error


def _check_features(tree: Any) -> None:
    """Raises ValueError if a feature class is not TFDS's: TFDS would import any module named."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str):
            if not value.startswith("tensorflow_datasets."):
                raise ValueError(f"the feature {value!r} is not one of TFDS's")
        elif isinstance(value, dict | list):
            _check_features(value)


def _list_versions(root: str) -> list[str]:
    """Returns the complete versions in a dataset's folder, oldest first."""
    if not tf.io.gfile.isdir(root):
        return []
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(root)]
    versions = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    finished = [v for v in versions if tf.io.gfile.exists(f"{root}/{v}/dataset_info.json")]
    return sorted(finished, key=lambda v: [int(part) for part in v.split(".")])


def _resolve(split: str, info: tfds.core.DatasetInfo) -> str:
    """Returns the split with the names of those that are there; see `resolve_split`."""
    parts = [part.strip().partition("[") for part in split.split("+")]
    where = f"the dataset {info.full_name}"
    return "+".join(resolve_split(a, list(info.splits), where) + b + c for a, b, c in parts)


def _find_files(info: tfds.core.DatasetInfo, split: str) -> Files:
    try:
        instructions = info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"Unknown split {split!r} of the dataset {info.full_name}. Expected one of: "
            f"{', '.join(info.splits)}, or a slice such as {next(iter(info.splits))}[:90%]."
        ) from error
    if not instructions:
        raise ValueError(
            f"Expected at least one example in {split!r} of {info.full_name}; got none."
        )
    return Files(instructions)


def _open_records(info: tfds.core.DatasetInfo, split: str, files: Files) -> Records:
    kinds: dict[tfds.core.FileFormat, Callable[[Files], Records]] = {
        tfds.core.FileFormat.ARRAY_RECORD: ArrayRecords,
        tfds.core.FileFormat.TFRECORD: TFRecords,
    }
    if info.file_format not in kinds:
        raise ValueError(
            f"Expected {info.full_name} in ArrayRecord or TFRecord files; found "
            f"{info.file_format} in {info.data_dir}. Prepare the dataset again."
        )
    if missing := [path for path in files.paths if not tf.io.gfile.exists(path)]:
        raise ValueError(
            f"Expected {len(files.paths)} files of {split!r} of {info.full_name}, as its metadata "
            f"say; {len(missing)} are not there, the first of them {missing[0]}. Copy them, or "
            "prepare the dataset again."
        )
    return kinds[info.file_format](files)


def _write_digits(data_dir: str) -> None:
    builder = Digits(data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        try:
            # TFDS announces a download; there is none.
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
        except OSError:  # another process was faster and put an identical copy there
            if not builder.is_prepared():
                raise
