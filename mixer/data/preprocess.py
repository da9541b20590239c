"""From an encoded image to uint8 pixels, in TensorFlow, each function deterministic in its seed.

Images are `[height, width, 3]`; grey ones are repeated over the channels.
"""

from collections.abc import Callable

import tensorflow as tf

_ASPECT_RATIOS = (3 / 4, 4 / 3)


def random_crop(
    encoded: tf.Tensor, size: int, *, area: tuple[float, float], seed: tf.Tensor
) -> tf.Tensor:
    """Returns an "inception crop": a random part of the image, resized to size x size, uint8.

    The part covers a fraction of the area drawn from `area`, with an aspect ratio between 3/4 and
    4/3. Of a JPEG only that part is decoded.

    Source: Szegedy et al., 2015 (arXiv:1409.4842), section 6; the paper's section 3 names it for
    JFT-300M pre-training.
    """

    def sample(shape: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros([0, 0, 4], tf.float32),
            seed=seed,
            min_object_covered=0.0,
            aspect_ratio_range=_ASPECT_RATIOS,
            area_range=area,
            use_image_if_no_bounding_boxes=True,
        )
        return begin, extent

    def decode_part() -> tf.Tensor:
        begin, extent = sample(tf.io.extract_jpeg_shape(encoded))
        window = tf.concat([begin[:2], extent[:2]], axis=0)
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=3)

    def decode_whole() -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        begin, extent = sample(tf.shape(image))
        return tf.slice(image, begin, extent)

    return _resize(tf.cond(tf.io.is_jpeg(encoded), decode_part, decode_whole), size)


def whole_image(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the whole image squeezed to size x size, uint8."""
    return _resize(tf.io.decode_image(encoded, channels=3, expand_animations=False), size)


def random_flip(image: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
    """Returns the image, mirrored left to right with probability one half."""
    return tf.image.stateless_random_flip_left_right(image, seed)


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    resized = tf.image.resize(image, (size, size), tf.image.ResizeMethod.BILINEAR)
    return tf.ensure_shape(tf.cast(resized, tf.uint8), (size, size, 3))


def make_train_preprocess(
    *, size: int, crop_area: tuple[float, float], flip: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns the function (encoded image, seed `[2]`) -> uint8 `[size, size, 3]` for training.

    Raises:
      ValueError: `crop_area` is not a range of fractions.
    """
    if len(crop_area) != 2 or not 0.0 < crop_area[0] <= crop_area[1] <= 1.0:
        raise ValueError(
            "Expected crop_area to be two fractions of the image's area, 0 < least <= most <= 1; "
            f"got {crop_area}."
        )

    def preprocess(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.experimental.stateless_split(seed, 2)
        image = random_crop(encoded, size, area=crop_area, seed=seeds[0])
        return random_flip(image, seed=seeds[1]) if flip else image

    return preprocess
