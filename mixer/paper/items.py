"""The tables and figures of the paper, as cells that name their runs."""

import dataclasses
from typing import Any

from mixer.paper import reference
from mixer.paper.graph import (
    CROPS,
    FIVE,
    FRACTION_STEPS,
    Absent,
    Cell,
    CoreDays,
    Evaluation,
    Item,
    Mean,
    Picture,
    Run,
    Score,
    Setting,
    Size,
    Throughput,
    VtabMean,
    finetuning,
    folder,
    pretraining,
)

_RESULTS = ("ImageNet", "ReaL", "mean of five", "images/s/core", "core-days")
# Rows of Table 2 that are no quotations: epochs, pixels in fine-tuning. Pixels of ViT and BiT: of
# their papers; 518 of ViT-H/14 is 37 patches.
_TABLE2 = {
    ("imagenet21k", "Mixer-L/16"): (300, 448),
    ("imagenet21k", "ViT-L/16"): (90, 512),
    ("imagenet21k", "BiT-R152x4"): (90, 480),
    ("jft300m", "Mixer-H/14"): (14, 448),
    ("jft300m", "BiT-R152x4"): (40, 480),
    ("jft300m", "ViT-H/14"): (14, 518),
}
# Figure 2 (right): percent of JFT-300M.
FRACTIONS = (3, 10, 30, 100)
_FRACTION_MODELS = (
    *("Mixer-B/32", "Mixer-L/32", "Mixer-L/16"),
    *("ViT-B/32", "ViT-L/32", "ViT-L/16", "BiT-R152x2"),
)
_PROBE = "few_shot/top1"


def _table1() -> Item:
    fields = (
        *("num_blocks", "patch_size", "hidden_dim", "sequence_length"),
        *("channels_mlp_dim", "tokens_mlp_dim", "params_millions"),
    )
    rows = {
        name: tuple(Cell(getattr(row, field), Size(name, field)) for field in fields)
        for name, row in reference.TABLE1.items()
    }
    return Item("table1", "Specifications of the Mixer architectures", fields, rows)


def _results(
    pretrain: str, model: str, epochs: int, image_size: int, crop: str, numbers: dict[str, Any]
) -> tuple[Cell, ...]:
    """Returns the five columns that Tables 2 and 3 have in common."""
    # The rows that both tables have are fine-tuned once, with the crop of Table 3.
    shared = any(
        (row.pretrain, row.model, row.pretrain_epochs, row.image_size)
        == (pretrain, model, epochs, image_size)
        for row in reference.table3_rows()
    )
    # Appendix C: of BiT, Table 3 has crop (i) on ImageNet.
    own = CROPS[1] if shared and not model.startswith("BiT-") else CROPS[0]
    runs = {
        data: finetuning(pretrain, model, epochs, image_size, data, own)
        for data in (FIVE if numbers["avg5_top1"] is not None else FIVE[:1])
    }

    def top1(data: str) -> Score | Evaluation:
        if crop == own or model.startswith("BiT-"):
            return Score(runs[data])
        return Evaluation(runs[data], "", "", crop)

    real = Evaluation(runs["imagenet"], "imagenet2012_real", "validation", crop)
    mean = Mean(tuple(top1(data) for data in runs))
    speed = f"throughput/{model.replace('/', '_')}-{image_size}.json"
    sources = (
        ("imagenet_top1", top1("imagenet")),
        ("real_top1", real),
        ("avg5_top1", mean),
        ("img_per_sec_per_core", Throughput(speed, runs["imagenet"].config)),
        ("tpu_v3_core_days", CoreDays(pretraining(pretrain, model, epochs))),
    )
    return tuple(
        Cell(numbers[name], Absent("not printed") if numbers[name] is None else source)
        for name, source in sources
    )


def _table2() -> Item:
    rows = {}
    for row in reference.table2_rows():
        if known := _TABLE2.get((row.pretrain, row.model)):
            epochs, pixels = known
            name = f"{folder(row.pretrain, row.model, epochs)}-{pixels}"
            numbers = dataclasses.asdict(row)
            cells = list(_results(row.pretrain, row.model, epochs, pixels, CROPS[0], numbers))
            cells.insert(
                3, Cell(row.vtab1k_19, VtabMean(pretraining(row.pretrain, row.model, epochs)))
            )
        else:
            name = f"{row.pretrain}/{row.model}"
            values = [
                *(row.imagenet_top1, row.real_top1, row.avg5_top1, row.vtab1k_19),
                *(row.img_per_sec_per_core, row.tpu_v3_core_days),
            ]
            cells = [
                Cell(value, Absent("not printed" if value is None else "quoted"))
                for value in values
            ]
        rows[name] = tuple(cells)
    columns = (*_RESULTS[:3], "VTAB-1k", *_RESULTS[3:])
    return Item("table2", "Transfer performance, throughput and training cost", columns, rows)


def _table3() -> Item:
    rows = {}
    for row in reference.table3_rows():
        what = (row.pretrain, row.model, row.pretrain_epochs)
        name = f"{folder(*what)}-{row.image_size}"
        rows[name] = _results(*what, row.image_size, CROPS[1], dataclasses.asdict(row))
    return Item("table3", "Mixer, ViT and BiT over data and scale", _RESULTS, rows)


def _table4() -> Item:
    keys = {
        "epochs": "num_epochs",
        "learning_rate": "optimizer.learning_rate",
        "weight_decay": "optimizer.weight_decay",
        "randaugment_magnitude": "randaugment.magnitude",
        "mixup_p": "mixup_alpha",
        "dropout": "model.dropout_rate",
        "stochastic_depth": "model.stochastic_depth_rate",
    }
    patch = {"Mixer-H": "14"}
    rows = {}
    for row in reference.table4_rows():
        for epochs in row.epochs:
            model = f"{row.model}/{patch.get(row.model, '16')}"
            config = reference.pretraining_config(row.pretrain, model, epochs)
            numbers = dataclasses.asdict(row) | {"epochs": epochs}
            rows[folder(row.pretrain, model, epochs)] = tuple(
                Cell(float(numbers[name] or 0), Setting(config, key)) for name, key in keys.items()
            )
    return Item("table4", "Hyperparameters of pre-training; 0: not used", tuple(keys), rows)


def _figure2left(table2: Item, table3: Item) -> Item:
    chosen = {
        name: (cells[0], cells[-1])
        for name, cells in (*table2.rows.items(), *table3.rows.items())
        if name in table2.rows or "R200x3" in name or "_16-14ep-224" in name
    }
    title = "ImageNet top-1 against the cost of pre-training"
    return Item("figure2left", title, ("ImageNet", "core-days"), chosen)


def fraction_run(model: str, percent: int) -> Run:
    """Returns the pre-training on a random part of JFT-300M, all with equally many steps."""
    if percent == 100:
        return pretraining("jft300m", model, 7)
    fraction = dict(train_fraction=percent / 100, num_steps=FRACTION_STEPS)
    return pretraining("jft300m", model, 7, f"{percent}percent", **fraction)


def _figure2right() -> Item:
    rows = {
        model: tuple(
            Cell(None, Score(fraction_run(model, percent), _PROBE, "minival/top1"))
            for percent in FRACTIONS
        )
        for model in _FRACTION_MODELS
    }
    title = "Linear 5-shot top-1 on ImageNet against the size of the pre-training data"
    return Item("figure2right", title, tuple(f"{percent}%" for percent in FRACTIONS), rows)


def _figure3(table3: Item) -> Item:
    title = "ImageNet top-1 against the cost of pre-training, and against throughput"
    rows = {
        name: (cells[0], cells[-1], cells[-2])
        for name, cells in table3.rows.items()
        if name.startswith("jft300m/") and name.endswith("-224")
    }
    return Item("figure3", title, ("ImageNet", "core-days", "images/s/core"), rows)


def _figure4() -> Item:
    models = {"Mixer-B/16": "permuted_mixer", "BiT-R50x1": "permuted_bit"}
    rows = {}
    for model, permuted in models.items():
        runs = [pretraining("jft300m", model, 7)] + [
            pretraining("jft300m", model, 7, way, model__name=permuted, model__permutation=way)
            for way in ("patches", "pixels")
        ]
        rows[model] = tuple(Cell(None, Score(run, _PROBE)) for run in runs)
    columns = ("original", "patches and pixels in each", "all pixels")
    return Item("figure4", "Linear 5-shot top-1 with permuted images", columns, rows)


def _weights_figures() -> list[Item]:
    b16, b32 = (pretraining("jft300m", f"Mixer-B/{size}", 7) for size in (16, 32))
    others = [pretraining(name, "Mixer-B/16", 300) for name in ("imagenet", "imagenet21k")]
    pictures = {
        "figure5": ("Hidden units of the first three token-mixing MLPs", [b16]),
        "figure6": ("All hidden units of the first two token-mixing MLPs", [*others, b16]),
        "figure7": ("The stem", [b16, b32]),
    }
    return [
        Item(
            *(name, title, ("picture",)),
            {run.name.removeprefix("pretrain/"): (Cell(None, Picture(run)),) for run in runs},
        )
        for name, (title, runs) in pictures.items()
    ]


def _appendix_a1() -> Item:
    small: dict[str, dict[str, Any]] = {
        "as it is": {},
        "untied": {},
        "grouped": {"model__groups": 2},
        "views": {"model__groups": 2},
        "pyramid": {"model__halved_after": (3,)},
    }
    rows = {}
    for name, options in small.items():
        if name != "as it is":
            options = {"model__name": "mixer_variant", "model__token_mixing": name, **options}
        run = pretraining("jft300m", "Mixer-S/32", 5, name if options else "", **options)
        rows[name] = (Cell(None, Score(run, _PROBE)),)
    return Item("appendixA1", "Other token-mixing MLPs, Mixer-S/32", ("5-shot",), rows)


def _appendix_a2() -> Item:
    plain = finetuning("jft300m", "Mixer-B/16", 7, 224, "imagenet", CROPS[1])
    other = {
        "mixup": dict(overrides=(*plain.overrides, ("mixup_alpha", 0.5))),
        "Polyak averaging": dict(overrides=(*plain.overrides, ("polyak_decay", 0.999))),
        "inception crop": dict(config=f"{plain.config},inception_crop"),
    }
    rows = {"as it is": (Cell(80.0, Score(plain)),)}
    for name, changes in other.items():
        folder_name = f"{plain.name}-{name.lower().replace(' ', '_')}"
        run = dataclasses.replace(plain, name=folder_name, **changes)  # type: ignore[arg-type]
        rows[name] = (Cell(None, Score(run)),)
    return Item("appendixA2", "Other fine-tunings of Mixer-B/16", ("ImageNet",), rows)


def all_items() -> dict[str, Item]:
    """Returns the tables and figures by name, in the paper's order."""
    table2, table3 = _table2(), _table3()
    items = [
        *(_table1(), table2, table3, _table4()),
        *(_figure2left(table2, table3), _figure2right(), _figure3(table3), _figure4()),
        *(*_weights_figures(), _appendix_a1(), _appendix_a2()),
    ]
    return {item.name: item for item in items}
