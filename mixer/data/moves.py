"""The moves of RandAugment: an image sheared, shifted or turned over grey, in uint8."""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

Size: TypeAlias = int | tf.Tensor
Affine: TypeAlias = tuple[float | tf.Tensor, ...]  # six numbers; see `move`

GREY = np.uint8(128)  # fills cut-out areas, and areas that a move leaves empty


def _rotation(degrees: float, height: Size, width: Size) -> Affine:
    """Returns the map that rotates an image counter-clockwise around its centre."""
    angle = tf.constant(degrees) * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    right, bottom = tf.cast(width - 1, tf.float32), tf.cast(height - 1, tf.float32)
    x = (right - (cos * right - sin * bottom)) / 2
    y = (bottom - (sin * right + cos * bottom)) / 2
    return cos, -sin, x, sin, cos, y


def move(image: tf.Tensor, affine: Callable[[Size, Size], Affine]) -> tf.Tensor:
    """Returns the image under an affine map: nearest pixels, grey outside the image.

    With `(a, b, c, d, e, f) = affine(height, width)`, the output at (x, y) is the input at
    (a x + b y + c, d x + e y + f).
    """
    if not image.shape.is_fully_defined():
        height, width, _ = tf.unstack(tf.shape(image))
        return _read(image, affine(height, width), fill=GREY)
    height, width, _ = image.shape
    # The map depends only on the size. Move the pixel numbers once, while tracing, and only look up
    # pixels afterwards, in a fifth of the time.
    with tf.init_scope():
        numbers = tf.reshape(tf.range(1, height * width + 1), (height, width, 1))
        sources = _read(numbers, affine(height, width), fill=0)  # [height, width, 1]
    pixels = tf.concat([tf.fill((1, 3), GREY), tf.reshape(image, (-1, 3))], axis=0)
    return tf.gather_nd(pixels, sources)


def _read(image: tf.Tensor, affine: Affine, *, fill: int | np.uint8) -> tf.Tensor:
    """Returns the image, of any type and number of channels, mapped by TensorFlow's own kernel."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*affine, 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(fill),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


# (level, height, width) -> the map.
MOVES: dict[str, Callable[[float, Size, Size], Affine]] = {
    "Rotate": lambda level, height, width: _rotation(level * 30, height, width),
    "ShearX": lambda level, height, width: (1.0, level * 0.3, 0.0, 0.0, 1.0, 0.0),
    "ShearY": lambda level, height, width: (1.0, 0.0, 0.0, level * 0.3, 1.0, 0.0),
    "TranslateX": lambda level, height, width: (1.0, 0.0, level * 100, 0.0, 1.0, 0.0),
    "TranslateY": lambda level, height, width: (1.0, 0.0, 0.0, 0.0, 1.0, level * 100),
}
