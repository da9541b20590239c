"""Losses against hand-computed values."""

import jax.numpy as jnp
import numpy as np

from mixer.losses import sigmoid_cross_entropy, softmax_cross_entropy

LOGITS = jnp.array([[0.0, np.log(3.0)], [0.0, 0.0]])
TARGETS = jnp.array([[1.0, 0.0], [0.25, 0.75]])


def test_sigmoid_cross_entropy_sums_over_classes():
    # Row 0: -ln(1/2) - ln(1 - 3/4); row 1: every term is ln 2 whatever the target.
    expected = [np.log(2) + np.log(4), 2 * np.log(2)]
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS, TARGETS), expected, rtol=1e-6)


def test_softmax_cross_entropy():
    # Row 0: the softmax is (1/4, 3/4); row 1: (1/2, 1/2).
    expected = [np.log(4), np.log(2)]
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, TARGETS), expected, rtol=1e-6)
