"""Exact counts: sets of labels, padding, images without a label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.evaluation.classification import evaluate, make_eval_step
from mixer.losses import softmax_cross_entropy
from mixer.sharding import batch_sharding, create_mesh


class PixelIsClass(nn.Module):
    """Predicts the class that the first pixel's value names, with logit ln 3 over 0."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        value = jnp.round((images[:, 0, 0, 0] + 1) * 127.5).astype(jnp.int32)
        return jax.nn.one_hot(value, 4) * np.log(3)


def batch(predictions: list[int], labels: list[list[int]]) -> dict[str, np.ndarray]:
    images = np.zeros((len(predictions), 1, 1, 3), np.uint8)
    images[:, 0, 0, 0] = predictions
    return {"images": images, "labels": np.array(labels, np.int32)}


def test_counts_by_hand():
    batches = [
        # right, wrong, right (second of a set), no label
        batch([0, 1, 2, 3] * 2, [[0, -1], [2, -1], [1, 2], [-1, -1]] * 2),
        # right, then padding
        batch([3] + [0] * 7, [[3, -1]] + [[-1, -1]] * 7),
    ]
    eval_step = jax.jit(make_eval_step(PixelIsClass(), softmax_cross_entropy, 4))
    result = evaluate(eval_step, {}, batches, batch_sharding(create_mesh()))
    assert result["count"] == 7
    assert result["top1"] == 5 / 7
    # The softmax is 1/2 for the predicted class, 1/6 for the others. Targets are sums over sets.
    per_kind = [np.log(2), np.log(6), np.log(2) + np.log(6)]
    assert result["loss"] == pytest.approx((2 * sum(per_kind) + np.log(2)) / 7, rel=1e-6)


def test_a_label_among_the_five_most_probable_of_seven_classes():
    class Descending(nn.Module):
        """Prefers the classes 6, 5, ..., 0 in this order."""

        @nn.compact
        def __call__(self, images: jax.Array) -> jax.Array:
            return jnp.tile(jnp.arange(7.0), (len(images), 1))

    labels = [[6, -1], [5, -1], [2, -1], [1, -1], [0, 1], [0, 3], [-1, -1], [6, 0]]
    eval_step = jax.jit(make_eval_step(Descending(), softmax_cross_entropy, 7))
    sharding = batch_sharding(create_mesh())
    result = evaluate(eval_step, {}, [batch([0] * 8, labels)], sharding)
    assert (result["top1"], result["top5"], result["count"]) == (2 / 7, 5 / 7, 7)


def test_two_batches_are_computed_ahead_of_the_sums_that_are_fetched(monkeypatch):
    begun, ahead = [], []
    fetch = jax.device_get

    def fetched(sums):
        ahead.append(len(begun) - len(ahead) - 1)
        return fetch(sums)

    def eval_step(params, batch):
        begun.append(batch)
        return {"correct": jnp.int32(1), "loss": jnp.float32(0.5), "count": jnp.int32(2)}

    monkeypatch.setattr(jax, "device_get", fetched)
    batches = [batch([0] * 8, [[0]] * 8)] * 5
    result = evaluate(eval_step, {}, iter(batches), batch_sharding(create_mesh()))
    assert result == {"top1": 0.5, "loss": 0.25, "count": 10}
    assert ahead == [2, 2, 2, 1, 0]
