"""Produces this process's batches with tf.data: step -> example order -> records -> pixels.

A training batch is a pure function of (seed, step) and of the rows that this process feeds. An
evaluation reads a split once, in order, and pads the last batch with unlabelled examples. Batches
hold `images`, uint8 `[rows, H, W, 3]`, and `labels`, int32 `[rows, labels_per_image]`.
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

# TensorFlow would otherwise reserve the GPU memory that JAX needs.
tf.config.set_visible_devices([], "GPU")

OnDamage = Callable[[int, list[str]], None]

# The functions here need no AutoGraph, which takes longer than tracing them.
_no_autograph = tf.autograph.experimental.do_not_convert

_MAX_REPLACEMENTS = 100  # tried for one damaged example before giving up


class TrainInput:
    """This process's training batches, from any step onwards.

    `preprocess` turns (encoded image, seed) into pixels. The seed is (`order.seed`, position of the
    example in the whole run), so a repeated example is augmented differently. `rows` (int64 `[n]`)
    are the rows of the global batch that this process feeds. `prefetch` batches are prepared ahead.
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
        """Yields the batches of steps `first_step`, `first_step + 1`, ... endlessly.

        With `on_damage`, the next intact example of the dataset replaces a damaged one, and
        `on_damage(step, descriptions)` is called before the batch is yielded. The replacement is a
        function of the step, like the rest of the batch.

        Raises:
          DamagedExample: an example is damaged and `on_damage` is None, or too many in a row are.
        """
        return _closed_at_exit(self._batches(first_step, on_damage))

    def _batches(
        self, first_step: int, on_damage: OnDamage | None
    ) -> Generator[HostBatch, None, None]:
        errors = (tf.errors.OpError, DamagedExample)  # bound now: at exit TensorFlow may be gone
        step = first_step
        replaced: np.ndarray | None = None  # this step's indices with damaged examples replaced
        while True:
            try:
                for batch in self._intact_batches(step, replaced):
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

    def _intact_batches(self, first_step: int, replaced: np.ndarray | None) -> Iterator[HostBatch]:
        """Yields batches until an example is damaged; `replaced` overrides the first indices."""

        def read(step: int) -> tuple[np.ndarray, np.ndarray]:
            indices = self._order.indices(step, self._rows)
            if replaced is not None and step == first_step:
                indices = replaced
            examples = np.array(self._dataset.records.read(indices), object)
            return examples, step * self._order.batch_size + self._rows

        @_no_autograph
        def load(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            examples, numbers = tf.numpy_function(read, [step], (tf.string, tf.int64))
            parsed = self._dataset.parse(tf.ensure_shape(examples, (len(self._rows),)))
            return parsed["image"], parsed["labels"], tf.ensure_shape(numbers, (len(self._rows),))

        @_no_autograph
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
        """Returns intact indices for the step, and descriptions of the damaged examples."""
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
                raise DamagedExample(f"{_MAX_REPLACEMENTS} damaged in a row; last: {damaged[-1]}")
        return indices, damaged


class EvalInput:
    """This process's evaluation batches of one split.

    `rows` (int64 `[n]`) are the rows of each global batch of `batch_size` that this process feeds.
    `prefetch` batches are prepared ahead. `cache` keeps all pixels in memory after the first pass.
    With `on_damage`, damaged examples are left out, and it is called with a line of text whenever
    they are: a score must not change unsaid.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: EvalPreprocess,
        *,
        batch_size: int,
        rows: np.ndarray,
        prefetch: int,
        cache: bool,
        on_damage: Callable[[str], None] | None = None,
    ):
        num_examples = len(dataset.records)
        self._left_out: dict[int, int] = {}  # damaged example -> a sound one that takes its row

        def read(batch: int) -> tuple[np.ndarray, np.ndarray]:
            indices = batch * batch_size + rows
            sound = [
                self._left_out.get(i, i) for i in np.minimum(indices, num_examples - 1).tolist()
            ]
            examples = dataset.records.read(np.array(sound))
            is_counted = [i < num_examples and i not in self._left_out for i in indices.tolist()]
            return np.array(examples, object), np.array(is_counted)

        @_no_autograph
        def load(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            examples, is_example = tf.numpy_function(read, [batch], (tf.string, tf.bool))
            parsed = dataset.parse(tf.ensure_shape(examples, (len(rows),)))
            is_example = tf.ensure_shape(is_example, (len(rows),))
            return parsed["image"], tf.where(is_example[:, None], parsed["labels"], -1)

        @_no_autograph
        def prepare(image: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"images": preprocess(image), "labels": labels}

        batches = tf.data.Dataset.range(-(-num_examples // batch_size)).map(load).unbatch()
        batches = batches.map(prepare, tf.data.AUTOTUNE, deterministic=True)
        self._prepared = batches.batch(len(rows), drop_remainder=True).prefetch(prefetch)
        # tf.data's own cache would keep a pass for complete that lacks a batch with a damaged
        # example: prefetching runs past the error to the end.
        self._cached: list[HostBatch] | None = [] if cache else None
        self._num_batches = -(-num_examples // batch_size)
        self._damage = lambda index: _damage(dataset, index, preprocess)
        self._indices = lambda batch: np.minimum(batch * batch_size + rows, num_examples - 1)
        self._num_examples = num_examples
        self._on_damage = on_damage

    def one_pass(self) -> Iterator[HostBatch]:
        """Yields this process's rows of each batch: every example of the split exactly once.

        All processes yield the same number of batches. Rows past the end hold an arbitrary image
        and the label -1, which evaluations do not count.

        Raises:
          DamagedExample: an example is damaged, and there is no `on_damage`.
        """
        return _closed_at_exit(self._batches())

    def _batches(self) -> Generator[HostBatch, None, None]:
        errors = (tf.errors.OpError, DamagedExample)  # as in TrainInput
        done = 0
        if self._left_out and self._on_damage:
            count = len(self._left_out)
            noun = "example is" if count == 1 else "examples are"
            self._on_damage(f"{count:,} damaged {noun} left out, as before.")
        while done < self._num_batches:
            if self._cached is not None and done < len(self._cached):
                yield self._cached[done]
                done += 1
                continue
            try:
                for batch in self._prepared.skip(done).as_numpy_iterator():
                    if self._cached is not None and done == len(self._cached):
                        self._cached.append(batch)
                    done += 1
                    yield batch
            except errors as error:
                found = self._leave_out(done)
                if not found:
                    raise
                if self._on_damage is None:
                    raise DamagedExample("; ".join(found)) from error
                for damage in found:
                    self._on_damage(f"Left out of the evaluation: {damage}")

    def _leave_out(self, batch: int) -> list[str]:
        """Returns what is wrong in a batch; with `on_damage`, sound examples take these rows."""
        found = []
        for index in dict.fromkeys(self._indices(batch).tolist()):
            if index in self._left_out or not (damage := self._damage(index)):
                continue
            found.append(damage)
            if self._on_damage is None:  # the next pass must end here, too
                continue
            for step in range(1, min(_MAX_REPLACEMENTS, self._num_examples)):
                sound = (index + step) % self._num_examples
                if self._damage(sound) is None:
                    break
            else:
                raise DamagedExample(f"{_MAX_REPLACEMENTS} damaged in a row; last: {damage}")
            self._left_out[index] = sound
        return found


def _closed_at_exit(batches: Generator[HostBatch, None, None]) -> Iterator[HostBatch]:
    """Returns the generator, to be closed at exit: otherwise tf.data's threads block shutdown."""
    atexit.register(_close, weakref.ref(batches))
    return batches


def _close(reference: weakref.ref[Generator[HostBatch, None, None]]) -> None:
    generator = reference()
    if generator is not None:
        generator.close()


def _damage(
    dataset: Dataset, index: int, preprocess: Callable[..., tf.Tensor], *seed: tf.Tensor
) -> str | None:
    """Returns where an example is and what is wrong with it, or None if it is intact."""
    try:
        (example,) = dataset.records.read(np.array([index]))
        preprocess(dataset.parse(tf.constant([example]))["image"][0], *seed)
    except OSError:
        raise  # the machine's fault, not that of the example
    except Exception as error:  # whatever the reader or the decoder raises
        reason = str(error).split("\n")[0]
        return f"damaged example {index} ({dataset.records.locate(index)}): {reason}"
    return None
