"""Which checkpoint a run may go on from."""

from collections.abc import Mapping
from typing import Any

import optax

from mixer.config import check_same_run


def check_resumed(
    meta: Mapping[str, Any],
    total_steps: int,
    schedule: optax.Schedule,
    allow_config_change: bool,
    step: int,
    saved: Mapping[str, Any],
) -> None:
    """Checks that a run of `total_steps` may go on from the checkpoint of a step.

    `saved` and `meta` are those of the checkpoint and of the run, as `check_same_run` takes them.

    Raises:
      ValueError: the run would end before that step; or it differs from the one of the checkpoint,
        unless `allow_config_change`.
    """
    shorter = (
        f"Expected at least the {step:,} steps of the newest checkpoint; got a run of "
        f"{total_steps:,}. A run cannot be shortened, whatever the flags: train {step:,} steps or "
        "more, or use another --workdir."
    )
    if not allow_config_change:
        try:
            check_same_run(meta, step, saved)
        except ValueError as error:
            if step > total_steps:
                raise ValueError(f"{error}\n{shorter}") from error
            lengths = [
                (config.get("num_steps"), config.get("num_epochs"))
                for config in (saved["config"], meta["config"])
            ]
            if step == total_steps or lengths[0] == lengths[1]:
                raise
            raise ValueError(
                f"{error}\nTo train longer, add --allow_config_change: the run then goes on from "
                f"step {step:,} to {total_steps:,} with the learning rates of the new schedule, "
                f"{float(schedule(step)):.3g} next."
            ) from error
    if step > total_steps:
        raise ValueError(shorter)
