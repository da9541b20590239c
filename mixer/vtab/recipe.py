"""Which config fine-tunes given weights, and what of it they change."""

import dataclasses
from typing import Any

from mixer.data.vtab import Task
from mixer.models import TITLES, title_of, variant_of
from mixer.weights.families import FAMILIES
from mixer.weights.rebuild import deciding_fields, rebuild_model
from mixer.weights.weights import Weights

# family -> the config of weights that have no named size
_BASES = {"mixer": "B/16", "vit": "ViT-B/16", "bit": "BiT-R50x1", "gmlp": "gMLP-S/16"}
_KEPT = ("pool", "version", "gelu_approximate")  # fields that a named size does not set
_LARGEST = 224  # pixels of published weights; those for more are used at their own resolution


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The config of weights: its size, and what is changed in it.

    Of a named size it has the resolutions. Other weights are fine-tuned at their own for small
    images and, unless it is above 224 pixels or the family has one resolution, at twice that for
    large ones.
    """

    size: str  # the first part of the argument of the config: "B/16"
    fields: dict[str, Any]  # of the model, that the config does not set so
    own_pixels: int = 0  # 0: as the config
    can_grow: bool = True
    tokens_mlp_dim: int = 0  # of a Mixer without a named size, at `own_pixels`

    def overrides(self, task: Task) -> dict[str, Any]:
        """Returns the overrides of the config of a task, dotted key -> value."""
        changes = {f"model.{name}": value for name, value in self.fields.items()}
        if not self.own_pixels:
            return changes
        grows = self.can_grow and self.own_pixels <= _LARGEST and not task.is_small
        pixels = self.own_pixels * (2 if grows else 1)
        before_crop = pixels * 8 // 7 if task.may_crop else pixels
        changes |= {
            "image_size": pixels,
            "eval_resize": pixels,
            "train_crop.resize": before_crop,
        }
        if self.tokens_mlp_dim:
            changes["model.tokens_mlp_dim"] = self.tokens_mlp_dim * (4 if grows else 1)
        return changes


def recipe_of(weights: Weights) -> Recipe:
    """Returns the recipe for weights from anywhere.

    Raises:
      ValueError: they are of a model of an experiment, for which there is none.
    """
    name = weights.model.get("name", weights.family)
    if name not in TITLES:
        raise ValueError(
            f"Expected weights of one of: {', '.join(TITLES)}; got those of {name}, which has no "
            "recipe for VTAB-1k."
        )
    model = rebuild_model(weights.model, weights.params, weights.image_size)
    fields = deciding_fields(model)
    variant = variant_of(name, fields)
    for layer in FAMILIES[name].optional_layers:
        del fields[layer]  # left out with the head
    takes_any_size = name in ("vit", "bit")
    if variant is not None and (takes_any_size or weights.image_size == _LARGEST):
        size = title_of(name, variant).removeprefix("Mixer-")
        kept: dict[str, Any] = {name: fields[name] for name in _KEPT if name in fields}
        return Recipe(size, kept)
    tokens_mlp_dim = fields.pop("tokens_mlp_dim", 0)
    return Recipe(
        _BASES[name],
        fields,
        own_pixels=weights.image_size,
        can_grow=FAMILIES[name].resize is not None or not weights.found.num_tokens,
        tokens_mlp_dim=tokens_mlp_dim,
    )
