"""Classifies images: files, PIL images and arrays of pixels."""

import dataclasses
import functools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mixer.batch import normalize_images
from mixer.evaluation.class_names import canonical, find_class_names
from mixer.evaluation.classification import check_outputs
from mixer.evaluation.given_images import as_list, path_of, read
from mixer.evaluation.head import check_head
from mixer.weights.load import LoadedModel, load_model

if TYPE_CHECKING:
    from mixer.evaluation.given_images import AnyImage

    Images = AnyImage | Iterable[AnyImage]

MAX_DRAWN = 60  # images whose pixels are kept, for a picture

_BATCH_SIZE = 16


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in descending order of probability."""

    path: pathlib.Path  # of pixels, their place in the call: "image 0"
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


class Predictor:
    """A model with its parameters, its class names and its preprocessing. See `mixer.load`.

    Every method takes one image or several: paths of files, PIL images, or uint8 arrays
    `[height, width, 3]`, of any size; also one array `[N, height, width, 3]`. They raise:
      ValueError: there are no images, a file is not an intact image, or pixels are not uint8
        `[height, width, 3]`.
      FloatingPointError: an output of the model is not finite.
      OSError: a file cannot be read, as the machine is at a limit.

    Attributes:
      model: the Flax module; `model.apply({"params": params}, images)` takes float images in
        [-1, 1] and returns logits.
      params: its parameters, nested dicts of arrays.
      image_size: the side in pixels of the images that the model takes.
      class_names: one for each logit, in their order; `()` without a head.
      loaded: model and parameters as the functions of `mixer.evaluation` take them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        class_names: Sequence[str] | None = None,
        crop: str | None = None,
        eval_resize: int | None = None,
    ):
        """`crop` and `eval_resize` are those of `make_eval_crop`; by default, the weights' own."""
        self.loaded = loaded
        self.model: nn.Module = loaded.model
        self.params = loaded.params
        self.image_size = loaded.image_size
        self.class_names = tuple(find_class_names(loaded) if class_names is None else class_names)
        recipe = loaded.recipe
        self._crop: dict[str, Any] = dict(
            size=self.image_size,
            crop=recipe.crop if crop is None else crop,
            resize=recipe.resize_for(self.image_size) if eval_resize is None else eval_resize,
        )

    def preprocess(self, images: "Images") -> np.ndarray:
        """Returns what `model.apply` takes: float32 `[N, image_size, image_size, 3]` in [-1, 1]."""
        return np.asarray(normalize_images(jnp.asarray(list(self._pixels(as_list(images))))))

    def predict(self, images: "Images", *, top: int = 5) -> list[Prediction]:
        """Returns the `top` most probable classes of each image, once all of them are read.

        Of a file, the true class is known if its folder has the name of a class.

        Raises:
          ValueError: as all methods; or the weights have no trained head, or `top` is not positive.
        """
        if top < 1:
            raise ValueError(f"Expected top to be at least 1; got {top}.")
        check_head(self.loaded)
        given, predictions = as_list(images), list[Prediction]()
        true_classes = _classes_by_folder(self.loaded, self.class_names)
        for pixels, found in self._outputs(self._softmax, given, "logits for"):
            image, number = given[len(predictions)], len(predictions)
            path = path_of(image, number)
            is_file = isinstance(image, str | os.PathLike)
            best = np.argsort(-found, kind="stable")[: min(top, len(self.class_names))]
            predictions.append(
                Prediction(
                    path,
                    pixels.copy() if number < MAX_DRAWN else None,
                    tuple(self.class_names[label] for label in best),
                    tuple(found[best].tolist()),
                    true_classes.get(canonical(path.absolute().parent.name)) if is_file else None,
                )
            )
        return predictions

    def probabilities(self, images: "Images") -> np.ndarray:
        """Returns the softmax of the logits, float32 `[N, classes]`; see `class_names`.

        Raises:
          ValueError: as all methods; or the weights have no trained head.
        """
        check_head(self.loaded)
        outputs = self._outputs(self._softmax, as_list(images), "logits for")
        return np.stack([found for _, found in outputs])

    def features(self, images: "Images") -> np.ndarray:
        """Returns the pre-logits, the input of the head: float32 `[N, channels]`."""
        outputs = self._outputs(self._pre_logits, as_list(images), "features of")
        return np.stack([found for _, found in outputs])

    @functools.cached_property
    def _softmax(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda params, images: jax.nn.softmax(_apply(self.model, params, images)))

    @functools.cached_property
    def _pre_logits(self) -> Callable[..., jax.Array]:
        headless = self.model.clone(num_classes=0)
        return jax.jit(functools.partial(_apply, headless))

    @functools.cached_property
    def _params_on_device(self) -> Any:
        return jax.device_put(self.params)

    @functools.cached_property
    def _preprocessors(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """For the bytes of a file, and for pixels."""
        from mixer.data.preprocess import make_eval_crop, make_eval_preprocess  # import TensorFlow

        return make_eval_preprocess(**self._crop), make_eval_crop(**self._crop)

    def _pixels(self, given: list[Any]) -> Iterator[np.ndarray]:
        of_file, of_pixels = self._preprocessors
        for number, image in enumerate(given):
            content = read(image, number)
            preprocess = of_file if isinstance(content, bytes) else of_pixels
            yield preprocess(content).numpy()

    def _outputs(
        self, function: Callable[..., jax.Array], given: list[Any], what: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each image its pixels, uint8 `[size, size, 3]`, and the output."""
        size, batch_size = self.image_size, min(_BATCH_SIZE, len(given))
        images = np.zeros((batch_size, size, size, 3), np.uint8)
        pixels = self._pixels(given)
        for start in range(0, len(given), batch_size):
            some = given[start : start + batch_size]
            for row in range(len(some)):
                images[row] = next(pixels)
            found = jax.device_get(function(self._params_on_device, jnp.asarray(images)))
            for row, image in enumerate(some):
                name = path_of(image, start + row)
                check_outputs(f"{what} {name}", bool(np.isfinite(found[row]).all()))
                yield images[row], found[row]


def _apply(model: nn.Module, params: Any, images: jax.Array) -> jax.Array:
    output: Any = model.apply({"params": params}, normalize_images(images))
    return output


def predict(
    loaded: LoadedModel,
    paths: Sequence[pathlib.Path],
    class_names: Sequence[str],
    *,
    top: int,
    crop: str | None = None,
    resize: int | None = None,
) -> list[Prediction]:
    """Returns `Predictor.predict` of image files, with these class names in label order."""
    predictor = Predictor(loaded, class_names=class_names, crop=crop, eval_resize=resize)
    return predictor.predict(paths, top=top)


def load(
    source: str | os.PathLike[str],
    *,
    image_size: int | None,
    gelu: str | None,
    dtype: DTypeLike | None,
    class_names: str | None,
    crop: str | None,
    eval_resize: int | None,
) -> Predictor:
    """See `mixer.load`."""
    loaded = load_model(os.fspath(source), image_size=image_size, gelu=gelu, dtype=dtype)
    if loaded.assumed:
        warnings.warn(loaded.assumed, stacklevel=3)
    names = find_class_names(loaded, class_names)
    return Predictor(loaded, class_names=names, crop=crop, eval_resize=eval_resize)


def _classes_by_folder(loaded: LoadedModel, class_names: Sequence[str]) -> dict[str, str]:
    """Returns the class for each name of a folder: the one shown, or the weights' own."""
    own = dict(zip(map(canonical, loaded.class_names or ()), class_names, strict=False))
    return own | {canonical(name): name for name in class_names}
