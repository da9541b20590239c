"""Images as a Python program has them: paths, PIL images, arrays of pixels."""

import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray

# PIL's modes with 8 bits per channel. It would cut off what others hold, such as 16 bits.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "La", "CMYK", "YCbCr")
_KINDS = "paths, PIL images or uint8 arrays [height, width, 3]"


def as_list(images: "AnyImage | Iterable[AnyImage]") -> list[Any]:
    """Returns the images as a list; one image alone is a list of one.

    Raises:
      ValueError: there are none, or it is no image and no sequence of images.
    """
    is_one = isinstance(images, str | os.PathLike) or _is_pil(images)
    if is_one or getattr(images, "ndim", None) in (0, 2, 3):
        return [images]
    if not isinstance(images, Iterable):
        raise ValueError(f"Expected images, {_KINDS}; got {type(images).__name__}.")
    found = list(images)
    if not found:
        raise ValueError(f"Expected images, {_KINDS}; got none.")
    return found


def path_of(image: "AnyImage", number: int) -> pathlib.Path:
    """Returns the path of an image file; of pixels, their place in the call: "image 0"."""
    if isinstance(image, str | os.PathLike):
        return pathlib.Path(image)
    return pathlib.Path(f"image {number}")


def read(image: "AnyImage", number: int) -> bytes | np.ndarray:
    """Returns the bytes of an intact image file, or pixels, uint8 `[height, width, 3]`.

    Of a PIL image, grey values are repeated and transparency is dropped, as when a file is decoded.

    Raises:
      ValueError: the file is not an intact image, or the pixels are not of that type and shape.
      OSError: a file cannot be read, as the machine is at a limit.
    """
    name = path_of(image, number)
    if isinstance(image, str | os.PathLike):
        return _read_file(name)
    if _is_pil(image):
        return _checked(_rgb(image, name), name)
    if hasattr(image, "__array__"):
        return _checked(np.asarray(image), name)
    raise ValueError(f"Expected images, {_KINDS}; {name} is of type {type(image).__name__}.")


def _read_file(path: pathlib.Path) -> bytes:
    from mixer.data.image_check import image_problem, read_image  # they import TensorFlow

    encoded, problem = read_image(path.expanduser())
    if problem := problem or image_problem(encoded):
        raise ValueError(f"Expected {path} to be an image; got one that {problem}.")
    return encoded


def _is_pil(image: object) -> bool:
    return any(kind.__module__ == "PIL.Image" for kind in type(image).__mro__)


def _rgb(image: Any, name: pathlib.Path) -> np.ndarray:
    if image.mode not in _MODES:
        raise ValueError(
            f"Expected a PIL image with 8 bits per channel; {name} has the mode {image.mode}. "
            'Scale its values to 0 to 255 and convert it to "RGB".'
        )
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # PIL decodes only now
        raise ValueError(f"Expected {name} to be an intact PIL image; got: {error}.") from error


def _checked(pixels: np.ndarray, name: pathlib.Path) -> np.ndarray:
    from mixer.data.rare_formats import MAX_PIXELS  # imports TensorFlow

    if pixels.dtype != np.uint8:
        raise ValueError(
            f"Expected pixels of type uint8, 0 to 255; {name} is {pixels.dtype}"
            f"{_range_of(pixels)}. Of values from 0 to 1, give (255 * image).round()."
            'astype("uint8"); what is normalised already goes to model.apply.'
        )
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"Expected pixels of shape [height, width, 3], the channels last; {name} has the shape "
            f"{list(pixels.shape)}. Repeat grey values over three channels, drop transparency."
        )
    if not 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS:
        raise ValueError(
            f"Expected 1 to {MAX_PIXELS:,} pixels; {name} has {pixels.shape[0]:,} x "
            f"{pixels.shape[1]:,}."
        )
    return pixels


def _range_of(pixels: np.ndarray) -> str:
    if not pixels.size or pixels.dtype.kind not in "biuf":
        return ""
    return f" from {pixels.min():.4g} to {pixels.max():.4g}"
