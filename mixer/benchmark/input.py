"""Measures the input pipeline against a classic tf.data pipeline over the same images."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from mixer.batch import HostBatch
from mixer.data import preprocess
from mixer.data.datasets import Dataset
from mixer.data.input_pipeline import TrainInput
from mixer.data.order import ExampleOrder

# Name -> (RandAugment layers, magnitude): the ImageNet recipe of Table 4 without and with them.
RECIPES = {"crop+flip": (0, 0.0), "crop+flip+randaugment": (2, 15.0)}
_CROP_AREA = (0.05, 1.0)


def measure_input(
    dataset: Dataset, *, image_size: int, batch_size: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Returns a row for each recipe: images/s of our and the classic pipelines, and their ratios.

    The pipelines take turns. `ours`, `classic` and `classic_same_ops` are medians in images/s; each
    `ratio_to_...` is the median of the ratios within a round. `classic_same_ops` runs our
    preprocessing in the classic pipeline, which isolates the cost of reading and ordering;
    `classic` decodes, crops and flips like the TensorFlow documentation. `first_batch_s` is the
    time in seconds from opening ours at step 10^9 to its first batch.

    Args:
      dataset: JPEGs only, few enough to be held in memory.
      image_size: the side of the images in pixels.
      batch_size: images per batch.
      rounds: how many turns each pipeline gets.
      seconds: the length of a turn.
    """
    rows = []
    pipelines: dict[str, Iterator[HostBatch]] = {}
    for recipe, (layers, magnitude) in RECIPES.items():
        ours_preprocess = preprocess.make_train_preprocess(
            size=image_size,
            crop=preprocess.inception_crop(image_size, area=_CROP_AREA),
            flip=True,
            randaugment_layers=layers,
            randaugment_magnitude=magnitude,
        )
        order = ExampleOrder(len(dataset.records), batch_size, seed=0)
        pipelines.clear()  # ends the previous recipe's pipelines outside the timed section
        start = time.monotonic()
        train_input = TrainInput(
            dataset, order, ours_preprocess, rows=np.arange(batch_size), prefetch=2
        )
        pipelines["ours"] = train_input.from_step(10**9)
        next(pipelines["ours"])
        first_batch = time.monotonic() - start
        pipelines["classic_same_ops"] = _classic(dataset, ours_preprocess, batch_size)
        if not layers:
            plain = _documented_preprocess(image_size)
            pipelines["classic"] = _classic(dataset, plain, batch_size)
        speeds = _take_turns(pipelines, batch_size, rounds, seconds)
        row: dict[str, Any] = {"recipe": recipe, "first_batch_s": round(first_batch, 3)}
        for name, values in speeds.items():
            row[name] = round(statistics.median(values))
            if name != "ours":
                pairs = [a / b for a, b in zip(speeds["ours"], values, strict=True)]
                row[f"ratio_to_{name}"] = round(statistics.median(pairs), 3)
        rows.append(row)
    return rows


def _take_turns(
    pipelines: dict[str, Iterator[HostBatch]], batch_size: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, batches in pipelines.items():
            for _ in range(4):
                next(batches)  # prepared while another pipeline ran
            start, count = time.monotonic(), 0
            while time.monotonic() - start < seconds:
                next(batches)
                count += 1
            speeds[name].append(count * batch_size / (time.monotonic() - start))
    return speeds


def _classic(
    dataset: Dataset, decode: preprocess.TrainPreprocess, batch_size: int
) -> Iterator[HostBatch]:
    """Returns the batches of tf.data's shuffle, map and batch over the same examples in memory."""
    indices = np.arange(len(dataset.records))
    examples = tf.data.Dataset.from_tensor_slices(np.array(dataset.records.read(indices), object))
    examples = examples.shuffle(len(indices)).repeat().enumerate()

    def prepare(number: tf.Tensor, example: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = dataset.parse(example[None])
        seed = tf.stack([tf.constant(0, tf.int64), number])
        return {"images": decode(parsed["image"][0], seed), "labels": parsed["labels"][0]}

    batches = examples.map(prepare, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    return batches.prefetch(2).as_numpy_iterator()


def _documented_preprocess(size: int) -> preprocess.TrainPreprocess:
    def decode(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        del seed
        shape = tf.io.extract_jpeg_shape(encoded)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=_CROP_AREA,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        image = tf.io.decode_and_crop_jpeg(encoded, window, channels=3)
        image = tf.image.resize(image, (size, size))
        return tf.image.random_flip_left_right(tf.cast(image, tf.uint8))

    return decode
