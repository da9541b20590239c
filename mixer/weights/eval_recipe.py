"""The evaluation settings that come with weights: dataset, split, resize and crop."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvalRecipe:
    """The evaluation settings of a run. The defaults are the paper's, without a dataset.

    Source: Appendix C, a crop of 224 pixels after resizing to 256.
    """

    crop: str = "resmall_crop"
    image_size: int = 224  # side after the crop, pixels
    resize: int = 256  # side before the crop, pixels
    dataset: str | None = None  # None: the weights do not come from a run
    split: str = "validation"
    data_dir: str = ""
    label_key: str = ""  # "": `label`

    def resize_for(self, image_size: int) -> int:
        """Returns `resize` scaled in proportion to `image_size`: 512 for 448 by default."""
        return round(image_size * self.resize / self.image_size)


PAPER = EvalRecipe()


def recipe_of(config: Mapping[str, Any]) -> EvalRecipe:
    """Returns the recipe in the config of a run; its split is `eval_splits.test`.

    Raises:
      KeyError, TypeError, ValueError: `config` is not the config of a run.
    """
    return EvalRecipe(
        crop=str(config["eval_crop"]),
        image_size=int(config["image_size"]),
        resize=int(config["eval_resize"]),
        dataset=str(config["dataset"]),
        split=str(dict(config["eval_splits"]).get("test", PAPER.split)),
        data_dir=str(config["data_dir"]),
        label_key=str(config.get("label_key", "")),  # a run from before the key has none
    )
