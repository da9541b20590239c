"""Stochastic depth against hand-computed rates and expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.models.stochastic_depth import StochasticDepth, linear_rate


def test_rates_grow_linearly_from_zero():
    rates = [linear_rate(0.3, block, 4) for block in range(4)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])
    assert linear_rate(0.3, 0, 1) == 0.0


@pytest.mark.parametrize(("rescale", "kept_value"), [(False, 2.0), (True, 2.0 / 0.75)])
def test_drops_whole_examples_at_the_rate(rescale, kept_value):
    y = jnp.full((8000, 2, 3), 2.0)
    layer = StochasticDepth(0.25, rescale)
    out = layer.apply({}, y, train=True, rngs={"dropout": jax.random.key(0)})
    per_example = np.asarray(out).reshape(8000, -1)
    assert np.ptp(per_example, axis=1).max() == 0
    np.testing.assert_allclose(np.unique(per_example), [0.0, kept_value], rtol=1e-6)
    # Standard deviation of the kept fraction: sqrt(0.25 * 0.75 / 8000) = 0.005.
    assert np.mean(per_example[:, 0] > 0) == pytest.approx(0.75, abs=0.02)
    expectation = 2.0 if rescale else 1.5
    assert per_example.mean() == pytest.approx(expectation, rel=0.03)


def test_changes_nothing_in_evaluation_or_at_rate_zero():
    y = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(StochasticDepth(0.9).apply({}, y, train=False), y)
    np.testing.assert_array_equal(StochasticDepth(0.0).apply({}, y, train=True), y)
