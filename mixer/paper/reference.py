"""Tables and settings of the paper (arXiv:2105.01601v4) as typed rows, from mixer_paper.json.

They serve for comparison only: configs state their own numbers, and tests check that they agree.
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
    """A row of Table 1, for images of 224 x 224 pixels.

    The exact parameter counts are computed; Table 1 prints millions.
    """

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
    """A row of Table 3: a pre-trained and fine-tuned model. Accuracies are in percent.

    The paper prints core-days in thousands with two decimals, so `tpu_v3_core_days` is precise to
    10. `note` contains `x` (core-days extrapolated from the same model on JFT-300M without extra
    regularisation), `p` (personal communication) or `l` (from the ViT paper).
    """

    pretrain: str  # "imagenet", "imagenet21k" or "jft300m"
    model: str  # "Mixer-B/16"
    image_size: int  # in fine-tuning, pixels
    pretrain_epochs: int
    imagenet_top1: float
    real_top1: float
    avg5_top1: float | None
    img_per_sec_per_core: int  # inference
    tpu_v3_core_days: int  # for pre-training
    note: str


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A row of Table 2. Units as in `Result`; None where the paper prints nothing."""

    pretrain: str  # "imagenet21k", "jft300m" or "weak_or_unlabelled"
    model: str
    imagenet_top1: float
    real_top1: float | None
    avg5_top1: float | None
    vtab1k_19: float | None
    img_per_sec_per_core: int | None
    tpu_v3_core_days: int


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """A row of Table 4; None where the paper does not use a method."""

    model: str  # "Mixer-B"
    pretrain: str
    epochs: tuple[int, ...]  # one value, or the two that were tried
    learning_rate: float
    weight_decay: float
    randaugment_magnitude: int | None  # with two layers
    mixup_p: float | None  # "mixing strength", alpha of Beta(alpha, alpha)
    dropout: float | None
    stochastic_depth: float | None  # drop rate of the last block


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """Settings shared by all pre-training runs (section 3 and Appendix B)."""

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
    """Settings of fine-tuning (section 3 and Appendix A)."""

    batch_size: int
    grad_clip_global_norm: float
    weight_decay: float
    resolutions: list[int]
    learning_rate_grid: dict[str, list[float]]
    steps_from_vit_paper: dict[str, int]  # by dataset
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

# Appendix B: values tried for each hyperparameter of Table 4 on ImageNet and ImageNet-21k.
SWEEPS: dict[str, tuple[float, ...]] = {
    name: tuple(values) for name, values in _PAPER["table4"]["sweeps"].items()
}

# Pre-trainings for another number of epochs than the same model's on the same data in other rows or
# figures: their configs name it.
_LONGER_OR_SHORTER = {
    ("imagenet21k", "ViT-L/16", 90),  # Table 2
    ("jft300m", "Mixer-L/16", 14),
    ("jft300m", "ViT-L/16", 14),
    ("jft300m", "BiT-R152x2", 14),
}
_TABLE2 = tuple(
    Transfer(tpu_v3_core_days=round(1000 * row.pop("tpu_v3_core_days_k")), **row)
    for row in _rows("table2")
)
_TABLE3 = tuple(
    Result(**{**row, "tpu_v3_core_days": round(1000 * row["tpu_v3_core_days"])})
    for row in _PAPER["table3"]["rows"]
)
_TABLE4 = tuple(
    Hyperparameters(**{**row, "epochs": tuple(row["epochs"])}) for row in _rows("table4")
)


def table2_rows() -> tuple[Transfer, ...]:
    """Returns all rows of Table 2, those that it quotes included, in the paper's order."""
    return _TABLE2


def table3_rows() -> tuple[Result, ...]:
    """Returns all rows of Table 3, including ViT and BiT, in the paper's order."""
    return _TABLE3


def table3(pretrain: str, model: str, image_size: int, pretrain_epochs: int) -> Result:
    """Returns a row of Table 3, for example `table3("jft300m", "Mixer-L/16", 224, 14)`.

    Raises:
      ValueError: there is no such row; the message names the nearest.
    """
    rows = {
        _name3(row.pretrain, row.model, row.image_size, row.pretrain_epochs): row for row in _TABLE3
    }
    name = _name3(pretrain, model, image_size, pretrain_epochs)
    if name not in rows:
        raise unknown_name("row of Table 3", name, rows)
    return rows[name]


def table4_rows() -> tuple[Hyperparameters, ...]:
    """Returns all rows of Table 4, in the paper's order."""
    return _TABLE4


def table4(model: str, pretrain: str) -> Hyperparameters:
    """Returns a row of Table 4, for example `table4("Mixer-B", "imagenet")`.

    Raises:
      ValueError: there is no such row; the message names the nearest.
    """
    rows = {f"{row.model} on {row.pretrain}": row for row in _TABLE4}
    name = f"{model} on {pretrain}"
    if name not in rows:
        raise unknown_name("row of Table 4", name, rows)
    return rows[name]


def pretraining_config(pretrain: str, model: str, pretrain_epochs: int) -> str:
    """Returns the config that pre-trains a row's model: "configs/pretrain_imagenet.py:ViT-B/16"."""
    size = model.removeprefix("Mixer-")
    if (pretrain, model, pretrain_epochs) in _LONGER_OR_SHORTER:
        size += f",{pretrain_epochs}"
    return f"configs/pretrain_{pretrain}.py:{size}"


def finetuning_config(pretrain: str, model: str, image_size: int, dataset: str) -> str:
    """Returns the config that fine-tunes a row's model: "configs/finetune.py:L/16,pets,448".

    `dataset` is one of that file. The weights of the pre-training go to the key `init_from`.
    """
    options = [str(image_size)] if image_size != 224 else []
    if pretrain == "jft300m" and model.startswith("BiT-") and model != "BiT-R152x4":
        options.append("v1")  # trained with Adam
    return f"configs/finetune.py:{','.join([model.removeprefix('Mixer-'), dataset, *options])}"


def _name3(pretrain: str, model: str, image_size: int, pretrain_epochs: int) -> str:
    return f"{model} on {pretrain} ({pretrain_epochs} epochs) at {image_size}"
