"""The learning-rate schedules and optimizers of pre-training and fine-tuning."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import optax

from mixer.errors import unknown_name

MOMENT_DTYPES = ("float32", "bfloat16")
DECAYS = ("linear", "cosine", "staircase")


def create_schedule(
    *,
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    decay: str,
    end_learning_rate: float,
) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up from 0 to the peak, then a smooth decay.

    Step 0 has learning rate 0, step `warmup_steps` has `learning_rate`, and step `total_steps`
    would have `end_learning_rate`, an absolute value. `decay` is `linear` or `cosine` (half a
    period).

    Raises:
      ValueError: another decay, or a warm-up that is negative or as long as the run.

    Source: section 3 (linear warm-up; linear decay in pre-training, cosine in fine-tuning).
    """
    if decay not in ("linear", "cosine"):
        raise unknown_name("decay", decay, DECAYS)
    _check_warmup(warmup_steps, total_steps)
    decay_steps = total_steps - warmup_steps
    if decay == "linear":
        after_warmup = optax.linear_schedule(learning_rate, end_learning_rate, decay_steps)
    else:
        end = end_learning_rate / learning_rate
        after_warmup = optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=end)
    return _with_warmup(learning_rate, warmup_steps, after_warmup)


def create_staircase(
    *, learning_rate: float, warmup_steps: int, total_steps: int, decay_at: Sequence[float]
) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up from 0 to the peak, then a tenth at each stair.

    `decay_at` are the fractions of the run where the stairs begin: with 0.3 and 100 steps, step 30
    is the first with a tenth of the rate.

    Raises:
      ValueError: as `create_schedule`, or the stairs are not ascending steps after the warm-up.

    Source: the BiT paper (arXiv:1912.11370), section 3.3.
    """
    _check_warmup(warmup_steps, total_steps)
    stairs = [round(fraction * total_steps) for fraction in decay_at]
    if any(step >= later for step, later in itertools.pairwise([warmup_steps, *stairs])):
        steps = ", ".join(f"{step:,}" for step in stairs)
        raise ValueError(
            "Expected optimizer.decay_at to be ascending fractions of the run, later than its "
            f"warm-up of {warmup_steps:,} steps; got {tuple(decay_at)}, the steps {steps} of "
            f"{total_steps:,}. Correct them, shorten the warm-up or train longer."
        )
    after_warmup = optax.piecewise_constant_schedule(
        learning_rate, {step - warmup_steps: 0.1 for step in stairs}
    )
    return _with_warmup(learning_rate, warmup_steps, after_warmup)


def _check_warmup(warmup_steps: int, total_steps: int) -> None:
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"Expected optimizer.warmup_steps to be at least 0 and below the {total_steps:,} steps "
            f"of the run; got {warmup_steps:,}. Shorten the warm-up or train longer."
        )


def _with_warmup(
    learning_rate: float, warmup_steps: int, after_warmup: optax.Schedule
) -> optax.Schedule:
    if warmup_steps == 0:
        return after_warmup
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, after_warmup], [warmup_steps])


def kernels_only(params: Any) -> Any:
    """Returns a tree of bools: True for kernels, to which weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _clipping(global_norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(global_norm) if global_norm else optax.identity()


def create_adam(
    schedule: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    weight_decay: float,
    clip_global_norm: float,
    mu_dtype: str,
) -> optax.GradientTransformation:
    """Returns Adam, preceded by clipping and followed by decoupled weight decay.

    The update of a kernel is `-lr * (adam(clip(gradient)) + weight_decay * kernel)`; biases and
    layer-norm parameters are not decayed. As in AdamW, the weight decay of Table 4 is multiplied by
    the learning rate. The first moment is stored as `mu_dtype`, float32 or bfloat16. With
    `clip_global_norm=0` nothing is clipped.

    Raises:
      ValueError: any other `mu_dtype`.

    Source: section 3 and Table 4.
    """
    if mu_dtype not in MOMENT_DTYPES:
        raise unknown_name("mu_dtype", mu_dtype, MOMENT_DTYPES)
    return optax.chain(
        _clipping(clip_global_norm),
        optax.adamw(
            schedule,
            b1=beta1,
            b2=beta2,
            weight_decay=weight_decay,
            mask=kernels_only,
            mu_dtype=mu_dtype,
        ),
    )


def create_momentum(
    schedule: optax.Schedule,
    *,
    momentum: float,
    weight_decay: float,
    clip_global_norm: float,
    momentum_dtype: str,
) -> optax.GradientTransformation:
    """Returns SGD with momentum, preceded by clipping and weight decay.

    The update is `-lr * m` with `m = clip(gradient) + weight_decay * kernel + momentum * m`; biases
    and normalisation parameters are not decayed. `m` is stored as `momentum_dtype`, float32 or
    bfloat16. With `clip_global_norm=0` nothing is clipped.

    Raises:
      ValueError: any other `momentum_dtype`.

    Source: section 3 (fine-tuning with momentum SGD, clipping at global norm 1, no weight decay);
    weight decay: section 3.3 of the BiT paper, which does not say that kernels alone are decayed.
    """
    if momentum_dtype not in MOMENT_DTYPES:
        raise unknown_name("momentum_dtype", momentum_dtype, MOMENT_DTYPES)
    gradient = _clipping(clip_global_norm)
    if weight_decay:  # without it, the layout of the state is that of older checkpoints
        gradient = optax.chain(gradient, optax.add_decayed_weights(weight_decay, mask=kernels_only))
    return optax.chain(
        gradient,
        optax.sgd(schedule, momentum=momentum, accumulator_dtype=momentum_dtype),
    )
