"""Pictures of a run: its curves, and images as the model sees them."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter

from mixer.data.imagenet import imagenet_class_names
from mixer.reporting.metrics import read_metrics
from mixer.runtime.naming import naming

_TITLE = 20  # characters that fit above an image


def draw_curves(workdir: epath.Path) -> None:
    """Draws `metrics.jsonl` into `curves.png`."""
    lines = read_metrics(workdir)
    keys = dict.fromkeys(key for line in lines for key in line)
    panels: tuple[tuple[str, list[str]], ...] = (  # title, keys
        ("loss", ["loss", *(key for key in keys if key.endswith("/loss"))]),
        ("accuracy (top-1)", [key for key in keys if key.endswith("/top1")]),
        ("learning rate", ["learning_rate"]),
        ("images/s/core", ["images_per_second_per_core"]),
    )
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (title, shown) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for key in shown:
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                marker = "." if len(points) < 30 else None
                label = key.partition("/")[0] if "/" in key else "training"
                axes.plot(*zip(*points, strict=True), marker=marker, label=label)
        if title == "loss":
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5), numticks=8))
            axes.yaxis.set_minor_formatter("{x:,.7g}")
        axes.yaxis.set_major_formatter("{x:,.7g}")  # digits, neither powers nor offsets
        axes.xaxis.set_major_formatter("{x:,.7g}")
        if title.startswith("accuracy"):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(axes.lines) > 1 or (axes.lines and "/" in shown[0]):
            axes.legend()
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    _save(figure, workdir / "curves.png", dpi=100)


def draw_images(
    images: np.ndarray, labels: np.ndarray, path: epath.Path, class_names: Sequence[str]
) -> None:
    """Draws up to 32 images `uint8 [n, H, W, 3]` with the names of their classes.

    `labels` are `[n, labels_per_image]`, padded with -1, and `class_names` in their order.
    """
    figure = Figure(figsize=(12, 6.5))
    # Fixed places: to solve for those of 32 axes would take seconds of the start of a run.
    places = dict(left=0.01, right=0.99, bottom=0.01, top=0.95, wspace=0.05, hspace=0.2)
    for axes in figure.subplots(4, 8, gridspec_kw=places).flat:
        axes.axis("off")
    in_words = imagenet_class_names()
    for axes, image, own in zip(figure.axes, images, labels, strict=False):
        axes.imshow(image)
        names = [class_names[label] for label in own if label >= 0]
        title = ", ".join(in_words.get(name, name) for name in names)
        title = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in title)
        title = title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…"
        axes.set_title(title, fontsize=9, parse_math=False)
    _save(figure, path, dpi=80)


def _save(figure: Figure, path: epath.Path, *, dpi: int) -> None:
    png = io.BytesIO()  # matplotlib writes local files only
    figure.savefig(png, dpi=dpi)
    with naming(path):
        path.write_bytes(png.getvalue())
