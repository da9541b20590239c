"""Value range, label vectors and mixup against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.device_batch import mixup, multi_hot, normalize_images


def test_bytes_become_minus_one_to_one():
    images = jnp.array([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(normalize_images(images), [-1.0, -0.6, 1.0], rtol=1e-6)


def test_multi_hot_takes_sets_and_ignores_minus_one():
    labels = jnp.array([[1, -1], [0, 2], [-1, -1], [2, 2]])
    expected = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(multi_hot(labels, 3), expected)


def test_mixup_mixes_neighbours_with_one_weight_of_at_least_a_half():
    images = jnp.eye(4).reshape(4, 4, 1, 1)
    targets = jnp.eye(4)
    weights = []
    for seed in range(200):
        mixed, mixed_targets = mixup(jax.random.key(seed), images, targets, 0.5)
        weight = float(mixed_targets[0, 0])
        expected = weight * np.eye(4) + (1 - weight) * np.roll(np.eye(4), 1, axis=0)
        np.testing.assert_allclose(mixed_targets, expected, atol=1e-6)
        np.testing.assert_allclose(mixed.reshape(4, 4), expected, atol=1e-6)
        weights.append(weight)
    assert min(weights) >= 0.5
    # For Beta(1/2, 1/2), the arcsine law, E max(w, 1 - w) = 1/2 + 1/pi; its standard deviation
    # is 0.155, that of a mean of 200 is 0.011.
    assert np.mean(weights) == pytest.approx(0.5 + 1 / np.pi, abs=0.04)


def test_mixup_of_strength_zero_changes_nothing():
    images, targets = jnp.ones((2, 1, 1, 1)), jnp.eye(2)
    mixed, mixed_targets = mixup(jax.random.key(0), images, targets, 0.0)
    assert mixed is images
    assert mixed_targets is targets
