"""Pictures of a run: its curves, and images as the model sees them."""

import io

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from mixer.reporting.metrics import read_metrics
from mixer.runtime.naming import naming


def draw_curves(workdir: epath.Path) -> None:
    """Draws `metrics.jsonl` into `curves.png`."""
    lines = read_metrics(workdir)
    accuracies = dict.fromkeys(key for line in lines for key in line if key.endswith("/top1"))
    panels: tuple[tuple[str, str, list[str]], ...] = (  # title, scale, keys
        ("training loss", "log", ["loss"]),
        ("accuracy (top-1)", "linear", list(accuracies)),
        ("learning rate", "linear", ["learning_rate"]),
        ("images/s/core", "linear", ["images_per_second_per_core"]),
    )
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (title, scale, keys) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for key in keys:
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                marker = "." if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), marker=marker, label=key.partition("/")[0])
                axes.set_yscale(scale)
        if keys == list(accuracies) and keys:
            axes.legend()
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    _save(figure, workdir / "curves.png", dpi=100)


def draw_images(images: np.ndarray, labels: np.ndarray, path: epath.Path) -> None:
    """Draws up to 32 images `uint8 [n, H, W, 3]` with their labels `[n, labels_per_image]`."""
    figure = Figure(figsize=(12, 6.5))
    # Fixed places: to solve for those of 32 axes would take seconds of the start of a run.
    places = dict(left=0.01, right=0.99, bottom=0.01, top=0.95, wspace=0.05, hspace=0.2)
    for axes in figure.subplots(4, 8, gridspec_kw=places).flat:
        axes.axis("off")
    for axes, image, label in zip(figure.axes, images, labels, strict=False):
        axes.imshow(image)
        axes.set_title(", ".join(str(number) for number in label), fontsize=9)
    _save(figure, path, dpi=80)


def _save(figure: Figure, path: epath.Path, *, dpi: int) -> None:
    png = io.BytesIO()  # matplotlib writes local files only
    figure.savefig(png, dpi=dpi)
    with naming(path):
        path.write_bytes(png.getvalue())
