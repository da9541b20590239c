"""Classifies image files."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixer.batch import normalize_images
from mixer.evaluation.class_names import canonical
from mixer.evaluation.classification import check_outputs
from mixer.evaluation.head import check_head
from mixer.weights.load import LoadedModel

MAX_DRAWN = 60  # images whose pixels are kept, for a picture

_BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in descending order of probability."""

    path: pathlib.Path
    image: np.ndarray | None  # uint8 [size, size, 3], after preprocessing; None beyond `MAX_DRAWN`
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]  # softmax
    true_class: str | None = None  # the class that the file's folder is named after, if any

    @property
    def is_correct(self) -> bool | None:
        """True if the most probable class is the true one; None if that is not known."""
        return None if self.true_class is None else self.classes[0] == self.true_class


def accuracy_of(predictions: Sequence[Prediction]) -> str:
    """Returns the accuracy in words, or "" if no true class is known."""
    known = [p.is_correct for p in predictions if p.is_correct is not None]
    if not known:
        return ""
    return f"top-1 {sum(known) / len(known):.2%}, {sum(known):,} of {len(known):,} images"


def predict(
    loaded: LoadedModel,
    paths: Sequence[pathlib.Path],
    class_names: Sequence[str],
    *,
    top: int,
    crop: str | None = None,
    resize: int | None = None,
) -> list[Prediction]:
    """Returns the `top` most probable classes of each image file, after reading all files.

    `class_names` are in label order. `crop` and `resize` (pixels) are those of
    `make_eval_preprocess`; None uses the weights' own recipe. The true class of a file is known if
    its folder has the name of a class.

    Raises:
      ValueError: there are no files, a file is not an intact image, the weights have no trained
        head, or the crop is unknown.
      FloatingPointError: a logit is not finite.
      OSError: a file cannot be read.
    """
    from mixer.data.preprocess import make_eval_preprocess  # imports TensorFlow

    if not paths:
        raise ValueError("Expected image files; got none.")
    check_head(loaded)
    preprocess = make_eval_preprocess(
        size=loaded.image_size,
        crop=loaded.recipe.crop if crop is None else crop,
        resize=loaded.recipe.resize_for(loaded.image_size) if resize is None else resize,
    )

    @jax.jit
    def most_probable(params: Any, images: jax.Array) -> Sequence[jax.Array]:
        logits: Any = loaded.model.apply({"params": params}, normalize_images(images))
        return jax.lax.top_k(jax.nn.softmax(logits), min(top, len(class_names)))

    params = jax.device_put(loaded.params)
    true_classes = _classes_by_folder(loaded, class_names)
    batch_size = min(_BATCH_SIZE, len(paths))
    images = np.zeros((batch_size, loaded.image_size, loaded.image_size, 3), np.uint8)
    predictions: list[Prediction] = []
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        for row, path in enumerate(some):
            images[row] = preprocess(_read_image(path))
        found = jax.device_get(most_probable(params, jnp.asarray(images)))
        for row, (path, probabilities, labels) in enumerate(zip(some, *found, strict=False)):
            check_outputs(f"logits for {path}", bool(np.isfinite(probabilities).all()))
            predictions.append(
                Prediction(
                    path,
                    images[row].copy() if len(predictions) < MAX_DRAWN else None,
                    tuple(class_names[label] for label in labels),
                    tuple(probabilities.tolist()),
                    true_classes.get(canonical(path.absolute().parent.name)),
                )
            )
    return predictions


def _classes_by_folder(loaded: LoadedModel, class_names: Sequence[str]) -> dict[str, str]:
    """Returns the class for each name of a folder: the one shown, or the weights' own."""
    own = dict(zip(map(canonical, loaded.class_names or ()), class_names, strict=False))
    return own | {canonical(name): name for name in class_names}


def _read_image(path: pathlib.Path) -> bytes:
    from mixer.data.image_check import image_problem, read_image  # they import TensorFlow

    encoded, problem = read_image(path)
    if problem := problem or image_problem(encoded):
        raise ValueError(f"Expected {path} to be an image; got one that {problem}.")
    return encoded
