"""Which features of a dataset in TFDS's format are its images and labels, and how they are read."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.label_rules import LABEL_RULES
from mixer.data.row import DatasetRow

Parse = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def find_features(info: tfds.core.DatasetInfo, base: str, label_key: str) -> DatasetRow:
    """Returns the row of a dataset that is not in the table of datasets, from its metadata.

    The image is the feature `image`, or the only one of that kind. The label is `label_key` or, if
    that is "", `label`.

    Raises:
      ValueError: there is no image or label that can be used; the message lists what there is.
    """
    images = [key for key, feature in info.features.items() if _is_image(feature)]
    image_key = images[0] if len(images) == 1 else "image"
    row = DatasetRow(base, 0, image_key=image_key, label_key=label_key or "label")
    label = check_features(info, row)
    return dataclasses.replace(row, num_classes=label.num_classes)


def check_features(
    info: tfds.core.DatasetInfo, row: DatasetRow, *, sets: bool = False
) -> tfds.features.ClassLabel:
    """Returns the label of a dataset: a class or, with `sets`, that of a set of classes.

    Raises:
      ValueError: a feature of the row is not there, or is of another kind.
    """
    features = dict(sorted(info.features.items())) if hasattr(info.features, "items") else {}
    there = ", ".join(f"{key} ({_describe(feature)})" for key, feature in features.items())
    image: Any = features.get(row.image_key)
    label: Any = features.get(row.label_key)
    if row.label_rule:
        rule = LABEL_RULES[row.label_rule]
        label = tfds.features.ClassLabel(names=rule.class_names)
        for path, dtype in rule.features.items():
            if _dtype_at(features, path) != dtype.as_numpy_dtype:
                raise ValueError(
                    f"Expected {path!r} ({dtype.name}) in {info.data_dir}, which the label is "
                    f"computed from; got: {there or 'no features'}. Prepare the dataset again."
                )
    if not _is_image(image) or np.dtype(image.np_dtype).itemsize > 2:
        raise ValueError(
            f"Expected {row.image_key!r} in {info.data_dir} to be an image of 8 or 16 bits; got: "
            f"{there or 'no features'}. Write it again with tfds.features.Image(dtype=np.uint8)."
        )
    label = getattr(label, "feature", label) if sets else label
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        others = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        fix = "Write it again with tfds.features.ClassLabel(names=...) as its label."
        if others:
            fix = f"Use another: --config.label_key={others[0]} (--label_key of evaluate.py)."
        raise ValueError(
            f"Expected {row.label_key!r} in {info.data_dir} to be a class (ClassLabel); got: "
            f"{there}. {fix}"
        )
    return label


def parser(row: DatasetRow) -> Parse:
    """Returns the function from serialized examples (string `[n]`) to images and labels.

    It fails at a label that is no class; -1 is that of an unlabelled image.
    """
    rule = LABEL_RULES.get(row.label_rule)
    read = rule.features if rule else {row.label_key: tf.int64}

    def parse(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        specs = {
            key: tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
            for key, dtype in read.items()
        }
        specs[row.image_key] = tf.io.FixedLenFeature([], tf.string)
        features = tf.io.parse_example(examples, specs)
        if rule:
            dense = checked = rule.label(features)[:, None]
        else:
            dense = features[row.label_key].to_tensor(-1, shape=(None, row.max_labels))
            checked = dense if row.max_labels == 1 else features[row.label_key].flat_values
        is_class = tf.reduce_all((checked >= 0) & (checked < row.num_classes))
        problem = f"Expected labels from 0 to {row.num_classes - 1} (-1 is none); got"
        with tf.control_dependencies([tf.debugging.Assert(is_class, [problem, checked])]):
            labels = tf.cast(dense, tf.int32)
        images = features[row.image_key]
        if row.pixel_factor != 1:
            images = tf.map_fn(lambda image: _multiplied(image, row.pixel_factor), images)
        return {"image": images, "labels": labels}

    return parse


def _multiplied(encoded: tf.Tensor, factor: int) -> tf.Tensor:
    """Returns a PNG with its pixels times `factor`."""
    pixels = tf.io.decode_png(encoded)
    largest = tf.constant(255 // factor, tf.uint8)
    problem = f"Expected pixels from 0 to {255 // factor}"
    with tf.control_dependencies([tf.debugging.assert_less_equal(pixels, largest, problem)]):
        return tf.io.encode_png(pixels * tf.constant(factor, tf.uint8), compression=1)


def _dtype_at(features: Any, path: str) -> Any:
    """Returns the type of a feature such as `objects/size`, None if there is none."""
    for part in path.split("/"):
        inside = getattr(features, "feature", features)
        features = inside[part] if part in getattr(inside, "keys", list)() else None
    return getattr(features, "np_dtype", None)


def _is_image(feature: Any) -> bool:
    is_image = isinstance(feature, tfds.features.Image)
    return is_image and not isinstance(feature, tfds.features.LabeledImage)


def _describe(feature: Any) -> str:
    kind = type(feature).__name__
    if isinstance(feature, tfds.features.ClassLabel):
        return f"{kind} of {feature.num_classes:,}"
    dtype = getattr(feature, "np_dtype", None)  # of nested features a dict
    return f"{kind} {np.dtype(dtype).name}" if dtype and not isinstance(dtype, dict) else kind
