"""Batches of this process: step -> example order -> records -> pixels, with tf.data.

A training batch is a pure function of (seed, step) and of the rows that this process feeds; an
evaluation reads the split in order, once, and pads the last batch with examples without a label.
Batches hold `images`, uint8 `[rows, H, W, 3]`, and `labels`, int32 `[rows, labels_per_image]`.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from mixer.data.datasets import Dataset
from mixer.data.order import ExampleOrder

# The accelerator is JAX's: TensorFlow would reserve its memory.
tf.config.set_visible_devices([], "GPU")

HostBatch = dict[str, np.ndarray]


def train_batches(
    dataset: Dataset,
    order: ExampleOrder,
    preprocess: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    *,
    rows: np.ndarray,
    first_step: int,
    prefetch: int,
) -> Iterator[HostBatch]:
    """Yields the batches of the steps `first_step`, `first_step + 1`, ... without end.

    `rows` are those of the global batch that this process feeds. The seed of an example's
    augmentation is (seed, number of the example in the whole run), so an example that comes again
    in a later epoch is augmented anew. `prefetch` batches are prepared ahead.
    """

    def read(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        records = dataset.records.read(order.indices(int(step), rows))
        return np.array(records, object), step * order.batch_size + rows

    def prepare(serialized: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        example = dataset.parse(serialized)
        seed = tf.stack([tf.constant(order.seed, tf.int64), number])
        return {"images": preprocess(example["image"], seed), "labels": example["labels"]}

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    examples = steps.map(
        lambda step: tf.numpy_function(read, [step], (tf.string, tf.int64)),
        num_parallel_calls=2,
        deterministic=True,
    ).unbatch()
    return _batches(examples, prepare, len(rows), prefetch)


def evaluation_batches(
    dataset: Dataset,
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    *,
    batch_size: int,
    rows: np.ndarray,
    prefetch: int,
) -> Iterator[HostBatch]:
    """Yields this process's rows of each batch of the split, every example exactly once.

    Every process yields the same number of batches. Rows past the end hold some image and the
    label -1, which no evaluation counts.
    """
    num_examples = len(dataset.records)
    num_batches = -(-num_examples // batch_size)

    def read(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        indices = batch * batch_size + rows
        records = dataset.records.read(np.minimum(indices, num_examples - 1))
        return np.array(records, object), indices < num_examples

    def prepare(serialized: tf.Tensor, is_example: tf.Tensor) -> dict[str, tf.Tensor]:
        example = dataset.parse(serialized)
        labels = tf.where(is_example, example["labels"], -1)
        return {"images": preprocess(example["image"]), "labels": labels}

    examples = (
        tf.data.Dataset.range(num_batches)
        .map(lambda batch: tf.numpy_function(read, [batch], (tf.string, tf.bool)))
        .unbatch()
    )
    return _batches(examples, prepare, len(rows), prefetch)


def _batches(
    examples: tf.data.Dataset,
    prepare: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    batch_size: int,
    prefetch: int,
) -> Iterator[HostBatch]:
    def with_scalars(serialized: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
        # tf.numpy_function forgets shapes.
        return prepare(tf.ensure_shape(serialized, ()), tf.ensure_shape(number, ()))

    examples = examples.map(with_scalars, tf.data.AUTOTUNE, deterministic=True)
    batches = examples.batch(batch_size, drop_remainder=True).prefetch(prefetch)
    return batches.as_numpy_iterator()
