"""The numbers of the paper (arXiv:2105.01601v4), from mixer_paper.json, as typed rows.

For comparison only: a config states its own numbers, and tests compare the two.
"""

import dataclasses
import importlib.resources
import json
from typing import Any

from mixer.errors import unknown_name

_PAPER: dict[str, Any] = json.loads(
    importlib.resources.files("mixer.paper").joinpath("mixer_paper.json").read_text("utf-8")
)


@dataclasses.dataclass(frozen=True)
class Specification:
    """A row of Table 1, for images of 224 x 224 pixels; the exact counts are not printed there."""

    variant: str  # "B/16"
    num_blocks: int
    patch_size: int
    hidden_dim: int
    sequence_length: int
    channels_mlp_dim: int
    tokens_mlp_dim: int
    params_millions: int  # without the head
    params_exact_without_head: int
    params_exact_with_1000_way_head: int


@dataclasses.dataclass(frozen=True)
class Result:
    """A row of Table 3: a model after pre-training and fine-tuning.

    The accuracies are in percent. `tpu_v3_core_days` is in core-days; the paper prints thousands
    with two decimals, so the last digit is tens. `note` holds `x` (core-days extrapolated from the
    same model on JFT-300M without extra regularisation), `p` (personal communication) or `l` (from
    the ViT paper).
    """

    pretrain: str  # "imagenet", "imagenet21k" or "jft300m"
    model: str  # "Mixer-B/16"
    image_size: int  # of the fine-tuning, pixels
    pretrain_epochs: int
    imagenet_top1: float
    real_top1: float
    avg5_top1: float | None
    img_per_sec_per_core: int  # inference
    tpu_v3_core_days: int  # of the pre-training
    note: str


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """A row of Table 4; None where the paper does not use the method."""

    model: str  # "Mixer-B"
    pretrain: str
    epochs: tuple[int, ...]  # one, or the two that were tried
    learning_rate: float
    weight_decay: float
    randaugment_magnitude: int | None  # of two layers
    mixup_p: float | None  # "mixing strength", alpha of Beta(alpha, alpha)
    dropout: float | None
    stochastic_depth: float | None  # of the last block


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """What section 3 and Appendix B fix for every pre-training run."""

    resolution: int
    optimizer: str
    beta1: float
    beta2: float
    batch_size: int
    warmup_steps: int
    decay: str
    grad_clip_global_norm: float


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """What section 3 and Appendix A fix for fine-tuning; `steps_from_vit_paper` by dataset."""

    batch_size: int
    grad_clip_global_norm: float
    weight_decay: float
    resolutions: list[int]
    learning_rate_grid: dict[str, list[float]]
    steps_from_vit_paper: dict[str, int]
    seeds: int


def _rows(table: str) -> list[dict[str, Any]]:
    columns, rows = _PAPER[table]["columns"], _PAPER[table]["rows"]
    return [dict(zip(columns, row, strict=True)) for row in rows]


TABLE1: dict[str, Specification] = {row["variant"]: Specification(**row) for row in _rows("table1")}

PRETRAINING = Pretraining(
    **{field.name: _PAPER["pretraining"][field.name] for field in dataclasses.fields(Pretraining)}
)

FINETUNING = Finetuning(
    **{field.name: _PAPER["finetuning"][field.name] for field in dataclasses.fields(Finetuning)}
)

# Appendix B: what was tried for each hyperparameter of Table 4 on ImageNet and ImageNet-21k.
SWEEPS: dict[str, tuple[float, ...]] = {
    name: tuple(values) for name, values in _PAPER["table4"]["sweeps"].items()
}

_TABLE3 = tuple(
    Result(**{**row, "tpu_v3_core_days": round(1000 * row["tpu_v3_core_days"])})
    for row in _PAPER["table3"]["rows"]
)
_TABLE4 = tuple(
    Hyperparameters(**{**row, "epochs": tuple(row["epochs"])}) for row in _rows("table4")
)


def table3_rows() -> tuple[Result, ...]:
    """Returns the rows of Table 3, ViT and BiT included, in the paper's order."""
    return _TABLE3


def table3(pretrain: str, model: str, image_size: int, pretrain_epochs: int) -> Result:
    """Returns a row of Table 3, for instance of ("jft300m", "Mixer-L/16", 224, 14).

    Raises:
      ValueError: there is no such row; names the nearest.
    """
    rows = {
        _name3(row.pretrain, row.model, row.image_size, row.pretrain_epochs): row for row in _TABLE3
    }
    name = _name3(pretrain, model, image_size, pretrain_epochs)
    if name not in rows:
        raise unknown_name("row of Table 3", name, rows)
    return rows[name]


def table4_rows() -> tuple[Hyperparameters, ...]:
    """Returns the rows of Table 4 in the paper's order."""
    return _TABLE4


def table4(model: str, pretrain: str) -> Hyperparameters:
    """Returns a row of Table 4, for instance of ("Mixer-B", "imagenet").

    Raises:
      ValueError: there is no such row; names the nearest.
    """
    rows = {f"{row.model} on {row.pretrain}": row for row in _TABLE4}
    name = f"{model} on {pretrain}"
    if name not in rows:
        raise unknown_name("row of Table 4", name, rows)
    return rows[name]


def _name3(pretrain: str, model: str, image_size: int, pretrain_epochs: int) -> str:
    return f"{model} on {pretrain} ({pretrain_epochs} epochs) at {image_size}"
