"""RandAugment: a few random distortions per image, uint8 `[height, width, 3]` in and out.

Source: Cubuk et al., 2019 (arXiv:1909.13719). The Mixer paper uses two layers and magnitude 0, 10,
15 or 20 (Table 4). The ops reproduce the public TensorFlow pipelines in which these magnitudes were
tuned, oddities included (marked `Quirk:`): magnitude 0 still changes images, and 20 is not always
stronger than 10. RandAugment in other libraries is a different distribution.
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mixer.data.moves import GREY, MOVES, move
from mixer.errors import unknown_name

_LUMA = np.array([[0.2989], [0.587], [0.114]], np.float32)  # TensorFlow's weights of R, G and B


def _auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Returns the image with each channel's range stretched to 0..255."""
    rows = _rows(tf.cast(image, tf.float32))
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, axis=0), (-1, 3)), axis=0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, axis=0), (-1, 3)), axis=0)
    varies = high > low
    scale = tf.where(varies, 255.0 / (high - low), 1.0)
    offset = tf.where(varies, -low * scale, 0.0)
    width = tf.shape(image)[1]
    stretched = rows * tf.tile(scale, [width]) + tf.tile(offset, [width])
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))


def _equalize(image: tf.Tensor) -> tf.Tensor:
    """Returns the image with each channel's histogram flattened, in integer arithmetic."""
    # One table for the three channels: value v of channel c is bin 256 c + v.
    first_bins = tf.tile(tf.constant([0, 256, 512]), [tf.shape(image)[1]])
    bins = tf.reshape(_rows(tf.cast(image, tf.int32)) + first_bins, [-1])
    counts = tf.reshape(tf.math.bincount(bins, minlength=768, maxlength=768), (3, 256))
    darker = tf.cumsum(counts, axis=1, exclusive=True)  # pixels below each value
    # Quirk: the pixels of the brightest value do not count towards the step.
    step = tf.reduce_max(tf.where(counts > 0, darker, 0), axis=1, keepdims=True) // 255
    flat = tf.minimum((darker + step // 2) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step > 0, flat, tf.range(256)), tf.uint8)
    # gather_nd looks up single bytes in two thirds of the time of gather.
    return tf.reshape(tf.gather_nd(tf.reshape(table, [-1]), bins[:, None]), tf.shape(image))


def _posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Returns the image with only its `bits` highest bits: a higher magnitude changes less."""
    # Quirk: the shift is a uint8 capped at 7, so 0 bits means one bit, as do 9 bits or more.
    shift = min((8 - bits) % 256, 7)
    return tf.bitwise.bitwise_and(image, np.uint8(255 >> shift << shift))


def _solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Returns the image with values of at least `threshold` inverted."""
    # Quirk: the threshold wraps at 256: magnitudes 10 and 20 invert all pixels, 15 the upper half.
    # Arithmetic on the comparison takes a third to a fifth of tf.where's time, here and below.
    inverted = tf.cast(image >= np.uint8(threshold % 256), tf.uint8) * np.uint8(255)
    return tf.bitwise.bitwise_xor(image, inverted)


def _solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Returns the image with `addition` added to values below 128, up to 255."""
    addition = min(addition, 255)
    added = tf.minimum(image, np.uint8(255 - addition)) + np.uint8(addition)
    return tf.maximum(image, tf.cast(image < 128, tf.uint8) * added)


def _color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns the image moved away from its grey version by `factor`."""
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))
    # As tf.image.rgb_to_grayscale, but the input is already float32.
    grey = tf.floor(tf.matmul(pixels * np.float32(1 / 255), _LUMA) * 255.5)
    grey = tf.matmul(grey, tf.ones((1, 3)))  # repeats grey over the channels faster than tf.tile
    return tf.reshape(_blend(grey, pixels, factor), tf.shape(image))


def _contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns the image moved away from a constant grey by `factor`."""
    # Quirk: this grey is not a mean but the number of pixels / 256: 196 for 224 x 224.
    grey = tf.cast(tf.minimum(tf.size(image) // 3 // 256, 255), tf.float32)
    return _blend(grey, tf.cast(image, tf.float32), factor)


def _brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns the image with its values multiplied by `factor`."""
    return tf.cast(tf.minimum(tf.cast(image, tf.float32) * factor, 255.0), tf.uint8)


def _sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns the image moved away from a smoothed copy by `factor`; its border is unchanged."""
    values = tf.cast(image, tf.float32)
    inside = _blend(tf.floor(_smoothed(image)), values[1:-1, 1:-1], factor)
    inside = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], axis=1)
    return tf.concat([image[:1], inside, image[-1:]], axis=0)


def _smoothed(image: tf.Tensor) -> tf.Tensor:
    """Returns the means of 3 x 3 pixels with a weight of 5 for the middle, without the border."""
    # Quirk: where the mean is an integer, the result is that or just below, by the rounding of
    # fused multiply-adds. Only some processors have these, but a product of 8 and 24 bits is exact
    # in float64, so that each sum rounds to the same float32.
    rows = _rows(tf.cast(image, tf.float64))
    middle, around = (rows * np.float64(np.float32(n) / np.float32(13)) for n in (5, 1))
    height, width = tf.shape(image)[0] - 2, 3 * (tf.shape(image)[1] - 2)
    total = tf.zeros((), tf.float32)
    for row, column in np.ndindex(3, 3):
        part = (middle if row == column == 1 else around)[row:, 3 * column :][:height, :width]
        total = tf.cast(tf.cast(total, tf.float64) + part, tf.float32)
    return tf.reshape(total, (height, -1, 3))


def _blend(degenerate: tf.Tensor, values: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns `degenerate + factor * (values - degenerate)` as uint8; both are float32."""
    blended = degenerate + factor * (values - degenerate)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _rows(image: tf.Tensor) -> tf.Tensor:
    """Returns the image as `[height, width * 3]`: an axis of length 3 is 5 times slower."""
    return tf.reshape(image, (tf.shape(image)[0], -1))


def _cutout(image: tf.Tensor, pad: int, center: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Returns the image with grey over up to `pad` pixels on each side of the centre."""
    row_column = tf.cast(center, tf.int32)
    top, left = tf.unstack(tf.maximum(row_column - pad, 0))
    bottom, right = tf.unstack(tf.minimum(row_column + pad, tf.shape(image)[:2]))
    hole = tf.fill((bottom - top, right - left, 3), GREY)
    band = tf.concat([image[top:bottom, :left], hole, image[top:bottom, right:]], axis=1)
    return tf.concat([image[:top], band, image[bottom:]], axis=0)


# How each op interprets the level, which is the magnitude / 10.
_VALUE_OPS: dict[str, Callable[[tf.Tensor, float], tf.Tensor]] = {
    "AutoContrast": lambda image, level: _auto_contrast(image),
    "Equalize": lambda image, level: _equalize(image),
    "Invert": lambda image, level: 255 - image,
    "Posterize": lambda image, level: _posterize(image, int(level * 4)),
    "Solarize": lambda image, level: _solarize(image, int(level * 256)),
    "SolarizeAdd": lambda image, level: _solarize_add(image, int(level * 110)),
    "Color": lambda image, level: _color(image, level * 1.8 + 0.1),
    "Contrast": lambda image, level: _contrast(image, level * 1.8 + 0.1),
    "Brightness": lambda image, level: _brightness(image, level * 1.8 + 0.1),
    "Sharpness": lambda image, level: _sharpness(image, level * 1.8 + 0.1),
}
OPS = (*_VALUE_OPS, "Cutout", *MOVES)  # _random_op relies on the moves being last


def apply_op(
    image: tf.Tensor,
    name: str,
    magnitude: float,
    negate: bool = False,
    cutout_center: tuple[int, int] | tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the image after one op, uint8 `[height, width, 3]`.

    Args:
      image: uint8 `[height, width, 3]`.
      name: one of `OPS`.
      magnitude: strength of the op, at least 0; it may exceed 10.
      negate: whether Rotate, ShearX, ShearY, TranslateX and TranslateY go the other way.
      cutout_center: row and column in pixels; only Cutout uses it.

    Raises:
      ValueError: the name is unknown, the magnitude negative, or Cutout has no centre.
    """
    if name not in OPS:
        raise unknown_name("op", name, OPS)
    if magnitude < 0:
        raise ValueError(f"Expected a magnitude of at least 0; got {magnitude}. Use negate=True.")
    image = tf.ensure_shape(image, (None, None, 3))
    level = magnitude / 10
    if name in _VALUE_OPS:
        output = _VALUE_OPS[name](image, level)
    elif name in MOVES:
        output = move(image, functools.partial(MOVES[name], -level if negate else level))
    elif cutout_center is None:
        raise ValueError("Expected cutout_center=(row, column) for Cutout; got None.")
    else:
        output = _cutout(image, int(level * 40), cutout_center)
    return tf.ensure_shape(output, image.shape)


def randaugment(
    image: tf.Tensor, *, num_layers: int, magnitude: float, seed: tf.Tensor
) -> tf.Tensor:
    """Returns the image after `num_layers` random ops, uint8 `[height, width, 3]`.

    Each layer draws one of `OPS` uniformly, a sign, and a centre for Cutout.

    Args:
      image: uint8 `[height, width, 3]`.
      num_layers: how many ops to apply.
      magnitude: strength of the ops, at least 0.
      seed: integers `[2]`, which determine every draw.

    Raises:
      ValueError: `num_layers` or `magnitude` is negative.
    """
    if num_layers < 0:
        raise ValueError(f"Expected num_layers of at least 0; got {num_layers}.")
    image = tf.ensure_shape(image, (None, None, 3))
    draws = tf.random.stateless_uniform((num_layers, 4), seed)
    for layer in range(num_layers):
        image = _random_op(image, magnitude, draws[layer])
    return image


@functools.partial(tf.function, autograph=False)  # traced once for all layers and pipelines
def _random_op(image: tf.Tensor, magnitude: float, draws: tf.Tensor) -> tf.Tensor:
    """Returns the image after the op selected by `draws` (`[4]`, in [0, 1)): op, sign, centre."""
    center = tf.cast(draws[2:] * tf.cast(tf.shape(image)[:2], tf.float32), tf.int32)

    def branch(name: str, negate: bool) -> Callable[[], tf.Tensor]:
        return lambda: apply_op(image, name, magnitude, negate, center)

    # A move and its opposite are separate branches, so that each map is constant while tracing.
    branches = [branch(name, False) for name in OPS] + [branch(name, True) for name in MOVES]
    op = tf.cast(draws[0] * len(OPS), tf.int32)
    opposite = (op >= len(OPS) - len(MOVES)) & (draws[1] >= 0.5)
    return tf.switch_case(op + tf.cast(opposite, tf.int32) * len(MOVES), branches)
