"""How weights want to be evaluated: on which images, and how those come to size."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvalRecipe:
    """The evaluation of a run, as its config has it; by default the paper's, of no dataset.

    Source: Appendix C, 224 of 256 pixels.
    """

    crop: str = "resmall_crop"
    image_size: int = 224
    resize: int = 256  # before the crop
    dataset: str | None = None
    split: str = "validation"
    data_dir: str = ""

    def resize_for(self, image_size: int) -> int:
        """Returns the size before a crop of `image_size`, as much larger as here: 512 for 448."""
        return round(image_size * self.resize / self.image_size)


PAPER = EvalRecipe()


def recipe_of(config: Mapping[str, Any]) -> EvalRecipe:
    """Returns how the run with that config is evaluated: on the split that it calls `test`.

    Raises:
      KeyError, TypeError, ValueError: it is no config of a run.
    """
    return EvalRecipe(
        crop=str(config["eval_crop"]),
        image_size=int(config["image_size"]),
        resize=int(config["eval_resize"]),
        dataset=str(config["dataset"]),
        split=str(dict(config["eval_splits"]).get("test", PAPER.split)),
        data_dir=str(config["data_dir"]),
    )
