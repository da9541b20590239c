"""Batches of this process: step -> example order -> records -> pixels, with tf.data.

A training batch is a pure function of (seed, step) and of the rows that this process feeds; an
evaluation reads the split in order, once, and pads the last batch with examples without a label.
Batches hold `images`, uint8 `[rows, H, W, 3]`, and `labels`, int32 `[rows, labels_per_image]`.
"""

import atexit
import weakref
from collections.abc import Callable, Generator, Iterator

import numpy as np
import tensorflow as tf

from mixer.batch import HostBatch
from mixer.data.datasets import Dataset
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import EvalPreprocess, TrainPreprocess
from mixer.data.records import DamagedExample

# The accelerator is JAX's: TensorFlow would reserve its memory.
tf.config.set_visible_devices([], "GPU")

OnDamage = Callable[[int, list[str]], None]

# Nothing here has to be rewritten for TensorFlow, which takes longer than to trace it.
_as_written = tf.autograph.experimental.do_not_convert

# Examples tried in the place of a damaged one before the data are given up.
_MAX_REPLACEMENTS = 100


class TrainInput:
    """The training batches of this process, from any step on.

    `rows` are those of the global batch that this process feeds. The seed of an example's
    augmentation is (seed, number of the example in the whole run), so an example that comes again
    in a later epoch is augmented anew. `prefetch` batches are prepared ahead.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: ExampleOrder,
        preprocess: TrainPreprocess,
        *,
        rows: np.ndarray,
        prefetch: int,
    ):
        self._dataset = dataset
        self._order = order
        self._preprocess = preprocess
        self._rows = rows
        self._prefetch = prefetch

    def from_step(self, first_step: int, on_damage: OnDamage | None = None) -> Iterator[HostBatch]:
        """Yields the batches of the steps `first_step`, `first_step + 1`, ... without end.

        A damaged example is an error, or, with `on_damage`, is replaced by the next sound one of
        the dataset and reported as (step, descriptions) before its batch comes. Like everything
        else, the replacement is a function of the step.

        Raises:
          DamagedExample: names the file, the position in it and what is wrong.
        """
        return _closed_at_exit(self._batches(first_step, on_damage))

    def _batches(
        self, first_step: int, on_damage: OnDamage | None
    ) -> Generator[HostBatch, None, None]:
        errors = (tf.errors.OpError, DamagedExample)  # looked up now: at exit TensorFlow is gone
        step = first_step
        replaced: np.ndarray | None = None  # the indices of this step's batch after replacement
        while True:
            try:
                for batch in self._sound_batches(step, replaced):
                    yield batch
                    step, replaced = step + 1, None
            except errors as error:
                indices, damaged = self._replace_damaged(step)
                if not damaged or replaced is not None:
                    raise
                if on_damage is None:
                    raise DamagedExample("; ".join(damaged)) from error
                on_damage(step, damaged)
                replaced = indices

    def _sound_batches(self, first_step: int, replaced: np.ndarray | None) -> Iterator[HostBatch]:
        """Yields batches until one has a damaged example; the first one may have other indices."""

        def read(step: int) -> tuple[np.ndarray, np.ndarray]:
            indices = self._order.indices(step, self._rows)
            if replaced is not None and step == first_step:
                indices = replaced
            examples = np.array(self._dataset.records.read(indices), object)
            return examples, step * self._order.batch_size + self._rows

        @_as_written
        def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            examples, numbers = tf.numpy_function(read, [step], (tf.string, tf.int64))
            parsed = self._dataset.parse(tf.ensure_shape(examples, (len(self._rows),)))
            return parsed["image"], parsed["labels"], tf.ensure_shape(numbers, (len(self._rows),))

        @_as_written
        def prepare(image: tf.Tensor, labels: tf.Tensor, number: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"images": self._preprocess(image, self._seed(number)), "labels": labels}

        steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
        examples = steps.map(load, num_parallel_calls=2, deterministic=True).unbatch()
        examples = examples.map(prepare, tf.data.AUTOTUNE, deterministic=True)
        batches = examples.batch(len(self._rows), drop_remainder=True)
        return batches.prefetch(self._prefetch).as_numpy_iterator()

    def _seed(self, number: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self._order.seed, tf.int64), number])

    def _replace_damaged(self, step: int) -> tuple[np.ndarray, list[str]]:
        """Returns sound indices for the batch of the step, and what was wrong with the others."""
        indices = self._order.indices(step, self._rows)
        damaged: list[str] = []
        for place, row in enumerate(self._rows):
            seed = self._seed(tf.constant(step * self._order.batch_size + row, tf.int64))
            for _ in range(_MAX_REPLACEMENTS):
                damage = _damage(self._dataset, int(indices[place]), self._preprocess, seed)
                if damage is None:
                    break
                damaged.append(damage)
                indices[place] = (indices[place] + 1) % len(self._dataset.records)
            else:
                raise DamagedExample(f"{_MAX_REPLACEMENTS} damaged in a row, last: {damaged[-1]}")
        return indices, damaged


class EvalInput:
    """The evaluation batches of this process; with `cache` the pixels are kept after a pass."""

    def __init__(
        self,
        dataset: Dataset,
        preprocess: EvalPreprocess,
        *,
        batch_size: int,
        rows: np.ndarray,
        prefetch: int,
        cache: bool,
    ):
        num_examples = len(dataset.records)

        def read(batch: int) -> tuple[np.ndarray, np.ndarray]:
            indices = batch * batch_size + rows
            examples = dataset.records.read(np.minimum(indices, num_examples - 1))
            return np.array(examples, object), indices < num_examples

        @_as_written
        def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            examples, is_example = tf.numpy_function(read, [batch], (tf.string, tf.bool))
            parsed = dataset.parse(tf.ensure_shape(examples, (len(rows),)))
            is_example = tf.ensure_shape(is_example, (len(rows),))
            return parsed["image"], tf.where(is_example[:, None], parsed["labels"], -1)

        @_as_written
        def prepare(image: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"images": preprocess(image), "labels": labels}

        batches = tf.data.Dataset.range(-(-num_examples // batch_size)).map(load).unbatch()
        batches = batches.map(prepare, tf.data.AUTOTUNE, deterministic=True)
        batches = batches.batch(len(rows), drop_remainder=True)
        batches = batches.cache() if cache else batches
        self._prepared = batches.prefetch(prefetch)
        self._damage = lambda index: _damage(dataset, index, preprocess)
        self._indices = lambda batch: np.minimum(batch * batch_size + rows, num_examples - 1)

    def one_pass(self) -> Iterator[HostBatch]:
        """Yields this process's rows of each batch of the split, every example exactly once.

        Every process yields the same number of batches. Rows past the end hold some image and the
        label -1, which no evaluation counts.

        Raises:
          DamagedExample: names the file, the position in it and what is wrong; nothing is left out.
        """
        return _closed_at_exit(self._batches())

    def _batches(self) -> Generator[HostBatch, None, None]:
        errors = (tf.errors.OpError, DamagedExample)  # as in TrainInput
        done = 0
        try:
            for batch in self._prepared.as_numpy_iterator():
                yield batch
                done += 1
        except errors as error:
            for index in self._indices(done):
                if damage := self._damage(int(index)):
                    raise DamagedExample(damage) from error
            raise


def _closed_at_exit(batches: Generator[HostBatch, None, None]) -> Iterator[HostBatch]:
    """Returns the same; what outlives the interpreter waits for ever for threads that need it."""
    atexit.register(_close, weakref.ref(batches))
    return batches


def _close(reference: weakref.ref[Generator[HostBatch, None, None]]) -> None:
    generator = reference()
    if generator is not None:
        generator.close()


def _damage(
    dataset: Dataset, index: int, preprocess: Callable[..., tf.Tensor], *seed: tf.Tensor
) -> str | None:
    """Returns what is wrong with an example, or None if it can be read and decoded."""
    try:
        (example,) = dataset.records.read(np.array([index]))
        preprocess(dataset.parse(tf.constant([example]))["image"][0], *seed)
    except Exception as error:  # whatever the reader or the decoder raises
        reason = str(error).split("\n")[0]
        return f"damaged example {index} ({dataset.records.locate(index)}): {reason}"
    return None
