"""Small data sets that the devices hold: their decoded images, and the order as indices."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np
import psutil
import tensorflow as tf

from mixer.batch import HostBatch
from mixer.data.datasets import Dataset
from mixer.data.input_pipeline import EvalInput, OnDamage
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import decode, squeeze

_BATCH = 1024  # images that are decoded at a time


def read_images(dataset: Dataset, size: int | None) -> HostBatch:
    """Returns all images of a split, uint8 `[N, h, w, 3]`, and its labels, as a batch has them.

    They are squeezed to `size` x `size` pixels; None: not, so all must have the size of the first.

    Raises:
      DamagedExample: an image cannot be decoded, or has another size.
      ValueError: they, and a copy for each device that is a CPU, do not fit into 80% of the free
        memory.
    """
    count = len(dataset.records)
    shape = (size, size) if size else _shape(dataset)
    copies = 1 + (jax.local_device_count() if jax.default_backend() == "cpu" else 0)
    held, free = (
        count * shape[0] * shape[1] * 3 / 2**30,
        psutil.virtual_memory().available / 2**30,
    )
    if copies * held > 0.8 * free:
        raise ValueError(
            f"Expected room for {copies * held:.1f} GiB of decoded images in 80% of the free "
            f"memory; {free:.1f} GiB are free. Use input='host'."
        )

    def preprocess(encoded: tf.Tensor) -> tf.Tensor:
        if size:
            return squeeze(encoded, size)
        image = decode(encoded)
        message = f"Expected all images to have {shape} pixels, for input='device'."
        check = tf.debugging.assert_equal(tf.shape(image)[:2], shape, message)
        with tf.control_dependencies([check]):
            return tf.ensure_shape(tf.identity(image), (*shape, 3))

    print(f"Reading {count:,} images ({held:.2f} GiB) into the memory of every device.")
    rows = np.arange(_BATCH)
    batches = EvalInput(
        dataset, preprocess, batch_size=_BATCH, rows=rows, prefetch=2, cache=False
    ).one_pass()
    whole: HostBatch = {}
    for start, batch in zip(range(0, count, _BATCH), batches, strict=True):
        for key, part in batch.items():
            if key not in whole:
                whole[key] = np.empty((count, *part.shape[1:]), part.dtype)
            whole[key][start : start + _BATCH] = part[: count - start]  # the last batch is padded
    return whole


def index_batches(
    order: ExampleOrder, rows: np.ndarray, first_step: int, on_damage: OnDamage | None = None
) -> Iterator[HostBatch]:
    """Yields `indices`, int32 `[rows]`, of steps `first_step`, `first_step + 1`, ...

    In place of `TrainInput.from_step`. There is no damage to report: all images have been read.
    """
    del on_damage
    for step in itertools.count(first_step):
        yield {"indices": order.indices(step, rows).astype(np.int32)}


def _shape(dataset: Dataset) -> tuple[int, int]:
    (example,) = dataset.records.read(np.array([0]))
    height, width, _ = decode(dataset.parse(tf.constant([example]))["image"][0]).shape
    return height, width
