"""The table of datasets: a name in a config to records, a parser and a number of classes."""

import contextlib
import dataclasses
import io
from collections.abc import Callable

import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.digits import Digits
from mixer.data.records import Records
from mixer.suggestion import unknown_name


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of one dataset.

    `parse` is a TensorFlow function from a serialized example to `image`, the encoded JPEG or PNG
    (string scalar), and `labels`, int32 `[labels_per_image]`.
    """

    name: str
    split: str
    num_classes: int
    records: Records
    parse: Callable[[tf.Tensor], dict[str, tf.Tensor]]


def open_dataset(name: str, split: str, data_dir: str) -> Dataset:
    """Returns a split, prepared on first use if that needs no download.

    Args:
      name: a key of `DATASETS`.
      split: of TFDS, for instance `train[:99%]`.
      data_dir: where TFDS keeps its datasets; "" for its default (TFDS_DATA_DIR or
        ~/tensorflow_datasets).

    Raises:
      ValueError: unknown name or split.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    builder = DATASETS[name](data_dir or None)
    info = builder.info

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        example = info.features.deserialize_example(
            serialized, decoders={"image": tfds.decode.SkipDecoding()}
        )
        return {"image": example["image"], "labels": tf.cast(example["label"], tf.int32)[None]}

    return Dataset(
        name=name,
        split=split,
        num_classes=info.features["label"].num_classes,
        records=Records(info, split),
        parse=parse,
    )


def _digits(data_dir: str | None) -> tfds.core.DatasetBuilder:
    builder = Digits(data_dir=data_dir, file_format="array_record")
    if not builder.is_prepared():
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # it speaks of a download; there is none
            builder.download_and_prepare()
    return builder


DATASETS: dict[str, Callable[[str | None], tfds.core.DatasetBuilder]] = {"digits": _digits}
