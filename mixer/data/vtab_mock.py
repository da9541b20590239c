"""Stands in for the data of VTAB-1k: random images, where those of each task would be.

The metadata are TFDS's own, with all examples. Of the files there are those with the first few
examples of each named split, at their true positions, so that any other that is read is missing.
"""

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from mixer.data.label_rules import LABEL_RULES
from mixer.data.overlap import Piece
from mixer.data.row import DatasetRow
from mixer.data.table import find_pieces
from mixer.data.vtab import TASKS

# Named split -> the number of its examples that exist.
COUNTS = {"train800": 24, "val200": 16, "test": 24}


def mock_split(split: str) -> str:
    """Returns what is there of a named split, or of both that it consists of."""
    if split == "train800val200":
        return f"{mock_split('train800')}+{mock_split('val200')}"
    return f"{split}[:{COUNTS[split]}]"


def write_mock_data(task: str, data_dir: str) -> None:
    """Writes the dataset of a task to TFDS's folder `data_dir`, unless it is there.

    Tasks on the same dataset share it.
    """
    row = TASKS[task].row
    folder = pathlib.Path(data_dir) / row.tfds_name / row.version
    if (folder / "dataset_info.json").exists():
        return
    builder = tfds.builder(
        f"{row.tfds_name}:{row.version}", data_dir=data_dir, file_format="array_record"
    )
    examples = _examples(builder, _features(row), sum(COUNTS.values()))
    folder.mkdir(parents=True, exist_ok=True)
    splits = []
    for split, size in row.splits.items():
        pieces = [piece for piece in (_piece(task, s) for s in COUNTS) if piece.place == split]
        edges = sorted({0, size}.union(*({start, end} for _, start, end in pieces)))
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=builder.name, split=split, filetype_suffix="array_record"
        )
        shards = list(itertools.pairwise(edges))
        paths = template.sharded_filepaths(len(shards))
        for path, (start, end) in zip(paths, shards, strict=True):
            if Piece(split, start, end) in pieces:
                writer = ArrayRecordWriter(str(path), "group_size:1")
                for example in itertools.islice(examples, end - start):
                    writer.write(example)
                writer.close()
        lengths = [end - start for start, end in shards]
        splits.append(tfds.core.SplitInfo(split, lengths, 0, template))
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.info.write_to_directory(folder)


def _piece(task: str, split: str) -> Piece:
    (piece,) = find_pieces(f"vtab/{task}", mock_split(split))
    return piece


def _features(row: DatasetRow) -> set[str]:
    """Returns the features that any task reads of the dataset of a row."""
    rows = [task.row for task in TASKS.values() if task.row.tfds_name == row.tfds_name]
    names = {row.image_key}
    for other in rows:
        rule = LABEL_RULES.get(other.label_rule)
        names |= {path.partition("/")[0] for path in rule.features} if rule else {other.label_key}
    return names


def _examples(builder: Any, names: set[str], count: int) -> Iterator[bytes]:
    """Yields serialized random examples that have these features."""
    features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})
    with tfds.testing.mock_data(num_examples=count):
        dataset = builder.as_dataset(split="train").map(lambda e: {name: e[name] for name in names})
    rng = np.random.default_rng(0)
    for example in tfds.as_numpy(dataset):
        if builder.name == "dsprites":
            example["image"] //= 128  # TFDS's mock images have all values
        if "objects" in names:
            example["objects"] = _consistent(example["objects"], rng)
        yield features.serialize_example(features.encode_example(example))


def _consistent(objects: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Returns objects as in real data: their fields are of one length, with likely distances."""
    count = rng.integers(3, 11)
    objects = {key: np.resize(v, (count, *v.shape[1:])) for key, v in objects.items()}
    for key, scale in (("pixel_coords", (7.5, 11.0)), ("location", (1.0, 40.0))):
        if key in objects:
            objects[key][:, 2] = rng.uniform(*scale, count)
    if "bbox" in objects:
        objects["bbox"][:] = (0, 0, 1, 1)  # TFDS refuses boxes whose end is before their start
    return objects
