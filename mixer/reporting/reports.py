"""What a run tells besides its metrics: the choice of whoever starts it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Reports:
    """What a run tells besides its metrics.

    Args:
      pictures: images and curves.
      traced_steps: steps, counted from 1, whose trace is written to `profile/` in the workdir.
      wandb_project: of Weights & Biases, which the metrics go to as well; "": none.
    """

    pictures: bool = True
    traced_steps: range = range(0)
    wandb_project: str = ""
