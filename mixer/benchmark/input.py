"""How fast the input is, beside a classic pipeline over the same images in the same run."""

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

# name -> (RandAugment layers, magnitude): Table 4's ImageNet recipe without and with RandAugment
RECIPES = {"crop+flip": (0, 0.0), "crop+flip+randaugment": (2, 15.0)}
_CROP_AREA = (0.05, 1.0)


def measure_input(
    dataset: Dataset, *, image_size: int, batch_size: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Returns a row for each recipe: images/s of ours and of the classic pipeline, and ratios.

    The pipelines take turns, each for `seconds`, `rounds` times. `ours` and `classic` are medians
    in images/s, `ratio` is the median of ours / classic pair by pair. `classic_same_ops` runs the
    functions of our preprocessing in the classic pipeline and so isolates the reading and ordering;
    `classic` decodes, crops and flips as the TensorFlow documentation does. `first_batch_s` is the
    time from opening ours at step 10^9 to its first batch.
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
        pipelines.clear()  # those of the last recipe end now, outside of what is timed
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
                next(batches)  # what was prepared ahead while another one ran
            start, count = time.monotonic(), 0
            while time.monotonic() - start < seconds:
                next(batches)
                count += 1
            speeds[name].append(count * batch_size / (time.monotonic() - start))
    return speeds


def _classic(
    dataset: Dataset, decode: preprocess.TrainPreprocess, batch_size: int
) -> Iterator[HostBatch]:
    """Returns batches from tf.data's shuffle, map and batch over the same examples, in memory."""
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
