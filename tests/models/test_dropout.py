"""Dropout and stochastic depth against hand-computed rates and expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.models.dropout import Dropout, StochasticDepth, linear_rate

ROWS = jnp.arange(8000)


def test_rates_grow_linearly_from_zero():
    rates = [linear_rate(0.3, block, 4) for block in range(4)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])
    assert linear_rate(0.3, 0, 1) == 0.0


def test_drops_whole_examples_at_the_rate_and_does_not_rescale_the_others():
    y = jnp.full((8000, 2, 3), 2.0)
    layer = StochasticDepth(0.25)
    out = layer.apply({}, y, ROWS, train=True, rngs={"dropout": jax.random.key(0)})
    per_example = np.asarray(out).reshape(8000, -1)
    assert np.ptp(per_example, axis=1).max() == 0
    assert np.unique(per_example).tolist() == [0.0, 2.0]
    # Standard deviation of the kept fraction: sqrt(0.25 * 0.75 / 8000) = 0.005.
    assert np.mean(per_example[:, 0] > 0) == pytest.approx(0.75, abs=0.02)


def test_changes_nothing_in_evaluation_or_at_rate_zero():
    y, rows = jnp.arange(6.0).reshape(3, 2), jnp.arange(3)
    for layer in (StochasticDepth, Dropout):
        np.testing.assert_array_equal(layer(0.9).apply({}, y, rows, train=False), y)
        np.testing.assert_array_equal(layer(0.0).apply({}, y, rows, train=True), y)


def test_dropout_zeroes_elements_and_keeps_the_expectation():
    y = jnp.full((2000, 10), 2.0)
    out = Dropout(0.25).apply({}, y, ROWS[:2000], train=True, rngs={"dropout": jax.random.key(0)})
    np.testing.assert_allclose(np.unique(out), [0.0, 2.0 / 0.75], rtol=1e-6)
    # Standard deviation of the kept fraction: sqrt(0.25 * 0.75 / 20000) = 0.003.
    assert np.mean(np.asarray(out) > 0) == pytest.approx(0.75, abs=0.012)


@pytest.mark.parametrize("layer", [Dropout(0.5), StochasticDepth(0.5)])
def test_an_example_has_the_mask_of_its_row_in_any_part_of_the_batch(layer):
    y, rngs = jnp.ones((64, 3, 5)), {"dropout": jax.random.key(0)}
    whole = layer.apply({}, y, ROWS[:64], train=True, rngs=rngs)
    part = layer.apply({}, y[:16], ROWS[1:64:4], train=True, rngs=rngs)
    np.testing.assert_array_equal(part, whole[1::4])
    assert 0 < np.mean(np.asarray(whole) == 0) < 1
