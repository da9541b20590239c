"""Figure 2 (right) in small, on images that anybody has: a study of our own, not the paper's."""

from mixer.paper.graph import Cell, Item, Run, Score
from mixer.paper.items import FRACTIONS

_MODELS = {"Mixer": "mixer", "ViT": "vit", "BiT": "bit"}


def figure() -> Item:
    """Returns test top-1 of each family on parts of CIFAR-10, at the best step on held-out images.

    Each training takes equally many steps (configs/cifar_fractions.py).
    """
    rows = {
        model: tuple(
            Cell(None, Score(_run(model, percent), "test/top1", "minival/top1"))
            for percent in FRACTIONS
        )
        for model in _MODELS
    }
    title = "Top-1 on CIFAR-10 against the part of its training images"
    columns = tuple(f"{percent}%" for percent in FRACTIONS)
    return Item("figure2right-cifar10", title, columns, rows, is_extra=True)


def _run(model: str, percent: int) -> Run:
    config = f"configs/cifar_fractions.py:{_MODELS[model]},{percent}"
    return Run(f"pretrain/cifar10/{model}-{percent}percent", config)
