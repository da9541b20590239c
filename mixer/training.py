"""The computation of a run: its model, its state and its jitted steps."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh, NamedSharding

from mixer.batch import Draw
from mixer.build import RunOptions
from mixer.evaluation.in_training import EvalSteps, jit_eval_steps
from mixer.models import build_model
from mixer.sharding import batch_sharding
from mixer.train_state import Params, TrainState, create_train_state
from mixer.train_step import jit_train_step, jit_train_steps, make_train_step


@dataclasses.dataclass(frozen=True)
class Training:
    """The computation of a run. Nothing is compiled yet."""

    model: nn.Module
    batch_sharding: NamedSharding
    abstract_state: TrainState
    init_state: Callable[[Params], TrainState]  # pre-trained parameters ({}: none) -> first state
    train_step: Any  # jitted
    train_steps: Any  # several steps as one program, jitted; None: a program has one step
    eval_steps: EvalSteps


def create_training(options: RunOptions, mesh: Mesh, draw: Draw | None = None) -> Training:
    """Returns the model of a run, its state and its jitted steps; compiles nothing.

    `draw` makes the batches, if the devices keep the images.

    Raises:
      ValueError: the model cannot be built, or the images do not split into patches.
    """
    model = build_model(**options.model, num_classes=options.num_classes)
    abstract_state, init_state = create_train_state(
        model,
        options.optimizer,
        image_size=options.image_size,
        seed=options.seed,
        averaged=options.polyak_decay > 0,
        mesh=mesh,
    )
    train_step = make_train_step(
        model,
        options.optimizer,
        options.loss,
        num_classes=options.num_classes,
        mixup_alpha=options.mixup_alpha,
        accumulation_steps=options.accumulation_steps,
        polyak_decay=options.polyak_decay,
        seed=options.seed,
    )
    return Training(
        model=model,
        batch_sharding=batch_sharding(mesh),
        abstract_state=abstract_state,
        init_state=init_state,
        train_step=jit_train_step(train_step, abstract_state),
        train_steps=jit_train_steps(train_step, draw, abstract_state, options.steps_per_call)
        if draw or options.steps_per_call > 1
        else None,
        eval_steps=jit_eval_steps(model, options.loss, options.num_classes, mesh),
    )
