"""Schedule and updates against hand-computed numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from mixer.optimizer import create_adam, create_schedule, kernels_only


def paper_schedule(**changes):
    arguments = dict(
        learning_rate=1e-3, warmup_steps=10_000, total_steps=90_000, end_learning_rate=1e-5
    )
    return create_schedule(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 1e-7),
        (5_000, 5e-4),
        (10_000, 1e-3),
        (50_000, (1e-3 + 1e-5) / 2),  # half-way down
        (70_000, 1e-5 + (1e-3 - 1e-5) / 4),
        (90_000, 1e-5),
    ],
)
def test_warmup_and_decay_are_linear(step, expected):
    np.testing.assert_allclose(paper_schedule()(step), expected, rtol=1e-4)


def test_without_warmup_the_first_step_has_the_peak():
    np.testing.assert_allclose(paper_schedule(warmup_steps=0)(0), 1e-3, rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [-1, 90_000, 100_000])
def test_a_warmup_that_does_not_fit_is_refused(warmup_steps):
    with pytest.raises(ValueError, match=f"got warmup_steps={warmup_steps} and total_steps=90000"):
        paper_schedule(warmup_steps=warmup_steps)


def test_two_adam_updates_by_hand():
    params = {"layer": {"kernel": jnp.array([2.0]), "bias": jnp.array([3.0])}}
    optimizer = create_adam(
        lambda step: 0.1,
        beta1=0.9,
        beta2=0.999,
        weight_decay=0.5,
        clip_global_norm=1.0,
        mu_dtype="float32",
    )
    state = optimizer.init(params)
    # The gradient (30, 40) has norm 50, so it is clipped to (0.6, 0.8). The bias-corrected first
    # update of Adam is g / (|g| + 1e-8) = 1, and the kernel alone is decayed:
    # kernel: -0.1 * (1 + 0.5 * 2) = -0.2; bias: -0.1.
    gradient = {"layer": {"kernel": jnp.array([30.0]), "bias": jnp.array([40.0])}}
    updates, state = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(updates["layer"]["kernel"], [-0.2], rtol=1e-5)
    np.testing.assert_allclose(updates["layer"]["bias"], [-0.1], rtol=1e-5)
    # A second gradient of (0.3, 0), of norm below 1 and so not clipped.
    # m = 0.9 * 0.1 * 0.6 + 0.1 * 0.3 = 0.084, corrected by 1 - 0.81 = 0.19: 0.442105
    # v = 0.999 * 0.001 * 0.36 + 0.001 * 0.09 = 0.00044964, corrected by 0.001999: 0.224932
    # ratio 0.442105 / sqrt(0.224932) = 0.932177; kernel: -0.1 * (0.932177 + 0.5 * 2)
    gradient = {"layer": {"kernel": jnp.array([0.3]), "bias": jnp.array([0.0])}}
    updates, state = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(updates["layer"]["kernel"], [-0.1932177], rtol=1e-5)


def test_the_first_moment_may_be_bfloat16():
    params = {"layer": {"kernel": jnp.ones(3)}}

    def first_moment(mu_dtype):
        optimizer = create_adam(
            lambda step: 0.1,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            clip_global_norm=1.0,
            mu_dtype=mu_dtype,
        )
        _, state = optimizer.update(params, optimizer.init(params), params)
        return state[1][0].mu["layer"]["kernel"]

    exact, rounded = first_moment("float32"), first_moment("bfloat16")
    assert (exact.dtype, rounded.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, rtol=2**-8)
    with pytest.raises(ValueError, match="Unknown mu_dtype 'float16'"):
        first_moment("float16")


def test_only_kernels_are_decayed():
    tree = {
        "stem": {"kernel": 0, "bias": 0},
        "MixerBlock_0": {
            "LayerNorm_0": {"scale": 0, "bias": 0},
            "token_mixing": {"Dense_0": {"kernel": 0, "bias": 0}},
        },
    }
    assert kernels_only(tree) == {
        "stem": {"kernel": True, "bias": False},
        "MixerBlock_0": {
            "LayerNorm_0": {"scale": False, "bias": False},
            "token_mixing": {"Dense_0": {"kernel": True, "bias": False}},
        },
    }
