"""Schedule and updates against hand-computed numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.optimizer import (
    create_adam,
    create_momentum,
    create_schedule,
    create_staircase,
    kernels_only,
)


def paper_schedule(**changes):
    arguments = dict(
        learning_rate=1e-3,
        warmup_steps=10_000,
        total_steps=90_000,
        decay="linear",
        end_learning_rate=1e-5,
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


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (5_000, 5e-4),
        (10_000, 1e-3),
        # A third of the way down: (1 + cos 60 degrees) / 2 = 3/4 of the height.
        (10_000 + 80_000 / 3, 1e-5 + 0.75 * (1e-3 - 1e-5)),
        (50_000, (1e-3 + 1e-5) / 2),
        (90_000, 1e-5),
    ],
)
def test_the_cosine_decay(step, expected):
    np.testing.assert_allclose(paper_schedule(decay="cosine")(step), expected, rtol=1e-4)


def test_an_unknown_decay_is_refused():
    with pytest.raises(ValueError, match="Unknown decay 'cosin'.*Did you mean 'cosine'"):
        paper_schedule(decay="cosin")


def test_without_warmup_the_first_step_has_the_peak():
    np.testing.assert_allclose(paper_schedule(warmup_steps=0)(0), 1e-3, rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [-1, 90_000, 100_000])
def test_a_warmup_that_does_not_fit_is_refused(warmup_steps):
    with pytest.raises(
        ValueError, match=f"below the 90,000 steps of the run; got {warmup_steps:,}"
    ):
        paper_schedule(warmup_steps=warmup_steps)


def bit_schedule(**changes):
    # The BiT paper: 90 epochs, a tenth at 30, 60 and 80; here of 100 steps each.
    arguments = dict(
        learning_rate=0.48,
        warmup_steps=500,
        total_steps=9_000,
        decay_at=(30 / 90, 60 / 90, 80 / 90),
    )
    return create_staircase(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (250, 0.24),
        (500, 0.48),
        (2_999, 0.48),
        (3_000, 0.048),
        (5_999, 0.048),
        (6_000, 0.0048),
        (8_000, 0.00048),
        (8_999, 0.00048),
    ],
)
def test_a_staircase_divides_by_10_at_every_stair(step, expected):
    np.testing.assert_allclose(bit_schedule()(step), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(bit_schedule())(step), expected, rtol=1e-5)


def test_a_staircase_without_warmup_begins_at_the_peak():
    schedule = bit_schedule(warmup_steps=0, decay_at=(0.5,))
    np.testing.assert_allclose([schedule(step) for step in (0, 4_499)], 0.48, rtol=1e-6)
    np.testing.assert_allclose(schedule(4_500), 0.048, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_at": (0.6, 0.3)}, r"ascending fractions.*\(0.6, 0.3\), the steps 5,400, 2,700 of"),
        ({"decay_at": (0.3, 0.3)}, "the steps 2,700, 2,700 of 9,000"),
        ({"warmup_steps": 3_000}, "later than its warm-up of 3,000 steps"),
        ({"total_steps": 2, "warmup_steps": 0}, "the steps 1, 1, 2 of 2"),
        ({"warmup_steps": 9_000}, "warmup_steps to be at least 0 and below the 9,000 steps"),
    ],
)
def test_stairs_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        bit_schedule(**changes)


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


def test_two_momentum_updates_by_hand():
    params = {"kernel": jnp.array([2.0, 0.0])}
    optimizer = create_momentum(
        lambda step: 0.1,
        momentum=0.9,
        weight_decay=0.0,
        clip_global_norm=1.0,
        momentum_dtype="float32",
    )
    state = optimizer.init(params)
    # (30, 40) is clipped to (0.6, 0.8), and nothing is decayed.
    updates, state = optimizer.update({"kernel": jnp.array([30.0, 40.0])}, state, params)
    np.testing.assert_allclose(updates["kernel"], [-0.06, -0.08], rtol=1e-5)
    # m = (0.3, 0) + 0.9 * (0.6, 0.8) = (0.84, 0.72)
    updates, state = optimizer.update({"kernel": jnp.array([0.3, 0.0])}, state, params)
    np.testing.assert_allclose(updates["kernel"], [-0.084, -0.072], rtol=1e-5)


def test_weight_decay_joins_the_clipped_gradient_of_kernels():
    params = {"kernel": jnp.array([2.0]), "bias": jnp.array([3.0])}
    optimizer = create_momentum(
        lambda step: 0.1,
        momentum=0.9,
        weight_decay=0.5,
        clip_global_norm=1.0,
        momentum_dtype="float32",
    )
    state = optimizer.init(params)
    # (30, 40) is clipped to (0.6, 0.8); m of the kernel = 0.6 + 0.5 * 2, of the bias = 0.8
    gradient = {"kernel": jnp.array([30.0]), "bias": jnp.array([40.0])}
    updates, state = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(updates["kernel"], [-0.16], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-0.08], rtol=1e-5)
    # Without a gradient: m = 0.5 * 2 + 0.9 * 1.6 = 2.44 and 0.9 * 0.8 = 0.72
    updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
    np.testing.assert_allclose(updates["kernel"], [-0.244], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [-0.072], rtol=1e-5)


def test_a_norm_of_zero_clips_nothing_and_keeps_the_layout_of_the_state():
    params = {"kernel": jnp.zeros(2)}

    def optimizer(clip_global_norm):
        return create_momentum(
            lambda step: 0.1,
            momentum=0.9,
            weight_decay=0.0,
            clip_global_norm=clip_global_norm,
            momentum_dtype="float32",
        )

    state = optimizer(0.0).init(params)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer(1.0).init(params))
    updates, _ = optimizer(0.0).update({"kernel": jnp.array([30.0, 40.0])}, state, params)
    np.testing.assert_allclose(updates["kernel"], [-3.0, -4.0], rtol=1e-6)


def test_the_momentum_may_be_bfloat16():
    params = {"kernel": jnp.full(3, 1 / 3)}

    def momentum(dtype):
        optimizer = create_momentum(
            lambda step: 0.1,
            momentum=0.9,
            weight_decay=0.0,
            clip_global_norm=9.0,
            momentum_dtype=dtype,
        )
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert updates["kernel"].dtype == jnp.float32
        return state[1][0].trace["kernel"]

    assert momentum("float32").dtype == jnp.float32
    assert momentum("bfloat16").dtype == jnp.bfloat16
    np.testing.assert_allclose(momentum("bfloat16").astype(jnp.float32), 1 / 3, rtol=2**-8)
    with pytest.raises(ValueError, match="Unknown momentum_dtype 'float16'"):
        momentum("float16")


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
