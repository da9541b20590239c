"""Classifies image files and draws the most probable classes."""

import dataclasses
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from mixer.batch import normalize_images
from mixer.weights.load import LoadedModel

MAX_DRAWN = 60  # images per picture

_FULL_PICTURE = 5  # number of bars whose total height equals that of the image
_TEXT, _BEST, _OTHER = "#222222", "#8fbcdb", "#dfe6ec"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in descending order of probability."""

    path: pathlib.Path
    image: np.ndarray  # uint8 [size, size, 3], after preprocessing
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]  # softmax


def predict(
    loaded: LoadedModel,
    paths: Sequence[pathlib.Path],
    class_names: Sequence[str],
    *,
    top: int,
    crop: str | None = None,
    resize: int | None = None,
) -> list[Prediction]:
    """Returns the `top` most probable classes of each JPEG or PNG file, after reading all files.

    `class_names` are in label order. `crop` and `resize` (pixels) are those of
    `make_eval_preprocess`; None uses the weights' own recipe.

    Raises:
      ValueError: there are no files, a file is not an intact image, the weights have no head, or
        the crop is unknown.
      OSError: a file cannot be read.
    """
    if not paths:
        raise ValueError("Expected image files; got none.")
    if loaded.model.num_classes == 0:
        raise ValueError("Expected weights with a head; these have none. Fine-tune them first.")
    images = _read_images(
        paths,
        size=loaded.image_size,
        crop=crop or loaded.recipe.crop,
        resize=resize or loaded.recipe.resize_for(loaded.image_size),
    )

    @jax.jit
    def most_probable(params: Any, image: jax.Array) -> Sequence[jax.Array]:
        logits: Any = loaded.model.apply({"params": params}, normalize_images(image[None]))
        return jax.lax.top_k(jax.nn.softmax(logits[0]), min(top, len(class_names)))

    params = jax.device_put(loaded.params)
    predictions = []
    for path, image in zip(paths, images, strict=True):
        probabilities, labels = jax.device_get(most_probable(params, jnp.asarray(image)))
        classes = tuple(class_names[label] for label in labels)
        predictions.append(Prediction(path, image, classes, tuple(probabilities.tolist())))
    return predictions


def _read_images(
    paths: Sequence[pathlib.Path], *, size: int, crop: str, resize: int
) -> list[np.ndarray]:
    # These import TensorFlow.
    from mixer.data.image_check import image_problem, size_problem
    from mixer.data.preprocess import make_eval_preprocess

    preprocess = make_eval_preprocess(size=size, crop=crop, resize=resize)
    images = []
    for path in paths:
        problem = size_problem(path.stat().st_size)
        encoded = b"" if problem else path.read_bytes()
        if problem := problem or image_problem(encoded):
            raise ValueError(
                f"Expected {path} to be a JPEG or PNG image; got a file that {problem}."
            )
        images.append(np.asarray(preprocess(encoded)))
    return images


def draw_predictions(predictions: Sequence[Prediction], output: pathlib.Path) -> None:
    """Writes a PNG of the first `MAX_DRAWN` images, each next to a bar chart of its classes.

    An existing file is replaced only once the picture is complete.
    """
    drawn = predictions[:MAX_DRAWN]
    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1)
    height = 0.46 * max(len(drawn[0].classes), _FULL_PICTURE)  # inches
    figure = Figure(figsize=(5.6 * columns, height * rows), layout=layout)
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[1.0, 1.5] * columns)
    for axes in grid.flat:
        axes.axis("off")
    for prediction, (left, right) in zip(drawn, grid.reshape(-1, 2), strict=False):
        left.imshow(prediction.image)
        left.set_title(_shortened(prediction.path.name, 24), fontsize=9, parse_math=False)
        _draw_bars(right, prediction)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    unfinished = output.with_name(f".{output.name}.unfinished")
    unfinished.write_bytes(png.getvalue())
    unfinished.replace(output)


def _draw_bars(axes: Axes, prediction: Prediction) -> None:
    places = range(len(prediction.classes))
    colours = [_BEST] + [_OTHER] * (len(prediction.classes) - 1)
    axes.barh(places, prediction.probabilities, height=0.8, color=colours)
    axes.set_xlim(0, 1.18)  # leaves room for the percentages
    axes.set_ylim(max(len(places), _FULL_PICTURE) - 0.5, -0.5)  # most probable class on top
    for place in places:
        name = _shortened(prediction.classes[place], 32)
        axes.text(0.02, place, name, va="center", fontsize=9, color=_TEXT, parse_math=False)
        percent = f"{prediction.probabilities[place]:.1%}"
        axes.text(1.18, place, percent, va="center", ha="right", fontsize=9, color=_TEXT)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
