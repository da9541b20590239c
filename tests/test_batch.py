"""Value range, label vectors and mixup against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.batch import mix, mixup_weight, multi_hot, normalize_images, partner


def test_bytes_become_minus_one_to_one():
    images = jnp.array([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(normalize_images(images), [-1.0, -0.6, 1.0], rtol=1e-6)


def test_multi_hot_takes_sets_and_ignores_minus_one():
    labels = jnp.array([[1, -1], [0, 2], [-1, -1], [2, 2]])
    expected = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(multi_hot(labels, 3), expected)


def test_mixup_takes_the_previous_example_of_the_batch():
    images = jnp.eye(4, dtype=jnp.uint8)
    np.testing.assert_array_equal(partner(images), np.roll(np.eye(4), 1, axis=0))
    mixed = mix(jnp.eye(2), partner(jnp.eye(2)), jnp.array(0.75))
    np.testing.assert_allclose(mixed, [[0.75, 0.25], [0.25, 0.75]])


def test_the_weight_is_at_least_a_half_and_has_the_distribution_of_the_paper():
    weights = [float(mixup_weight(jax.random.key(seed), 0.5)) for seed in range(200)]
    assert min(weights) >= 0.5
    # For Beta(1/2, 1/2), the arcsine law, E max(w, 1 - w) = 1/2 + 1/pi; its standard deviation
    # is 0.155, that of a mean of 200 is 0.011.
    assert np.mean(weights) == pytest.approx(0.5 + 1 / np.pi, abs=0.04)
