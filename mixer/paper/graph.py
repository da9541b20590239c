"""The runs behind the paper's tables and figures, and what a cell of these is made of.

Everything is data: a run is a config of `configs/` with overrides, and perhaps the run whose
weights it starts from. `mixer/paper/items.py` lists the tables and figures.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mixer.paper.reference import FINETUNING, finetuning_config, pretraining_config

FIVE = ("imagenet", "cifar10", "cifar100", "pets", "flowers")  # the mean of five, section 3
CROPS = ("resize_crop", "resmall_crop")  # (i) and (ii) of Appendix C
FRACTION_STEPS = 512_608  # of 7 epochs of JFT-300M: Figure 2 (right) takes them on every subset

# With every evaluation the paper's 5-shot probe, of 50,000 of the training images.
_FEW_SHOT = (
    ("few_shot.dataset", "imagenet2012"),
    ("few_shot.train_split", "train[:50000]"),
    ("few_shot.test_split", "validation"),
)
# Pre-trained weights that are published: data, model, epochs.
_PUBLISHED = {
    ("imagenet", "Mixer-B/16", 300): "imagenet1k/Mixer-B_16",
    ("imagenet", "Mixer-L/16", 300): "imagenet1k/Mixer-L_16",
    ("imagenet21k", "Mixer-B/16", 300): "imagenet21k/Mixer-B_16",
    ("imagenet21k", "Mixer-L/16", 300): "imagenet21k/Mixer-L_16",
    ("imagenet21k", "ViT-B/16", 300): (
        "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
    ),
    ("imagenet21k", "ViT-L/16", 300): (
        "augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0"
    ),
    ("imagenet21k", "ViT-L/16", 90): "imagenet21k/ViT-L_16",
    ("imagenet21k", "BiT-R152x4", 90): "bit_models/BiT-M-R152x4",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training. With several seeds it is a sweep: see `mixer/sweep/plan.py`."""

    name: str  # its folder: "pretrain/jft300m/Mixer-B_16-7ep"
    config: str  # "configs/pretrain_jft300m.py:B/16"
    overrides: tuple[tuple[str, Any], ...] = ()  # dotted key, value
    start: "Run | None" = None  # whose weights it starts from
    seeds: int = 1
    swept: bool = False  # whether the learning rate is chosen from the config file's SWEEP
    published: str = ""  # weights of the catalogue that can stand for it


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of a run: after the last step, or where another one was best (early stopping)."""

    run: Run
    metric: str = "test/top1"
    best_by: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Top-1 of the weights of a run on other images, or with another crop than the run's."""

    run: Run
    dataset: str
    split: str
    crop: str


@dataclasses.dataclass(frozen=True)
class VtabMean:
    """The mean over the 19 tasks of VTAB-1k, from the weights of a run: `scripts/vtab.py`."""

    run: Run

    @property
    def name(self) -> str:
        """Its folder: "vtab/jft300m/Mixer-H_14-14ep"."""
        return f"vtab/{self.run.name.removeprefix('pretrain/')}"


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean of several scores."""

    scores: tuple[Score | Evaluation, ...]


@dataclasses.dataclass(frozen=True)
class CoreDays:
    """What a run took."""

    run: Run


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Images per second and core in inference, at the best batch size."""

    name: str  # its file: "throughput/Mixer-B_16-224.json"
    config: str  # whose model and image size it is of


@dataclasses.dataclass(frozen=True)
class Size:
    """A number of a named size of Mixer that follows from its fields."""

    variant: str
    field: str  # of `mixer.paper.reference.Specification`


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a config sets."""

    config: str
    key: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of the weights of a run: Figures 5 to 7."""

    run: Run


@dataclasses.dataclass(frozen=True)
class Absent:
    """Nothing to run: "quoted" from other papers, or "not printed"."""

    why: str


Source = (
    Score | Evaluation | VtabMean | Mean | CoreDays | Throughput | Size | Setting | Picture | Absent
)
Job = Run | Evaluation | VtabMean | Throughput  # what has to be executed


@dataclasses.dataclass(frozen=True)
class Cell:
    """The paper's number, None if it prints none, and how ours comes about.

    Accuracies are in percent, core-days in days.
    """

    paper: float | None
    source: Source


@dataclasses.dataclass(frozen=True)
class Item:
    """A table, or a figure as the table of its points."""

    name: str  # "table3"
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    is_extra: bool = False  # not in the paper: "all" leaves it out

    @property
    def is_figure(self) -> bool:
        return self.name.startswith("figure")

    def cells(self) -> Iterator[tuple[str, str, Cell]]:
        """Yields the name of the row, that of the column, and the cell."""
        for row, cells in self.rows.items():
            for column, cell in zip(self.columns, cells, strict=True):
                yield row, column, cell


def pretraining(pretrain: str, model: str, epochs: int, label: str = "", **overrides: Any) -> Run:
    """Returns the pre-training of a model; `label` names what `overrides` change.

    Keys of `overrides` have two underscores for a dot: `model__token_mixing`.
    """
    changes = tuple((key.replace("__", "."), value) for key, value in overrides.items())
    return Run(
        f"pretrain/{folder(pretrain, model, epochs)}{label and '-'}{label}",
        pretraining_config(pretrain, model, epochs),
        (_FEW_SHOT if pretrain == "jft300m" else ()) + changes,
        published="" if label else _PUBLISHED.get((pretrain, model, epochs), ""),
    )


def finetuning(
    pretrain: str, model: str, epochs: int, image_size: int, dataset: str, crop: str
) -> Run:
    """Returns the fine-tuning of a pre-trained model on one of `FIVE`; `crop` is of `CROPS`."""
    by_rule = model == "BiT-R152x4"  # the BiT-HyperRule has one learning rate, and 128 pixels
    pixels = 128 if by_rule and dataset.startswith("cifar") else image_size
    return Run(
        f"finetune/{folder(pretrain, model, epochs)}-{image_size}/{dataset}",
        finetuning_config(pretrain, model, pixels, dataset),
        (("eval_crop", crop),) if crop != CROPS[0] else (),
        pretraining(pretrain, model, epochs),
        seeds=FINETUNING.seeds,
        swept=not by_rule,
    )


def folder(pretrain: str, model: str, epochs: int) -> str:
    """Returns "jft300m/Mixer-B_16-7ep"."""
    return f"{pretrain}/{model.replace('/', '_')}-{epochs}ep"


def jobs_of(source: Source) -> list[Job]:
    """Returns what a cell needs, in an order in which it can be executed."""
    if isinstance(source, Throughput):
        return [source]
    if isinstance(source, Mean):
        return [job for score in source.scores for job in jobs_of(score)]
    if isinstance(source, Size | Setting | Absent):
        return []
    run: Run | None = source.run
    chain: list[Job] = [source] if isinstance(source, Evaluation | VtabMean) else []
    while run:
        chain.append(run)
        run = run.start
    return chain[::-1]


def jobs_of_items(items: list[Item]) -> list[Job]:
    """Returns what several tables and figures need, each once."""
    cells = [cell for item in items for _, _, cell in item.cells()]
    return list(dict.fromkeys(job for cell in cells for job in jobs_of(cell.source)))
