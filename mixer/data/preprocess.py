"""Turns encoded images into uint8 pixels in TensorFlow; each function is deterministic in its seed.

Images are `[height, width, 3]`; grey values are repeated over the channels, and transparency is
dropped. JPEGs are decoded with the fast integer transform, as in the public training code of the
paper's authors.
"""

from collections.abc import Callable

import tensorflow as tf

from mixer.data.image_check import check_pixels, check_size, is_png
from mixer.data.randaugment import randaugment
from mixer.data.rare_formats import decode_rare
from mixer.errors import unknown_name

_ASPECT_RATIOS = (3 / 4, 4 / 3)
_DCT = "INTEGER_FAST"
_MAX_ASPECT = 8  # of longer images a part is resized: all of 1 x 65,000 pixels would take 51 GB

TrainCrop = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
TrainPreprocess = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
EvalPreprocess = Callable[[tf.Tensor], tf.Tensor]


def make_train_preprocess(
    *,
    size: int,
    crop: TrainCrop,
    flip: bool,
    randaugment_layers: int,
    randaugment_magnitude: float,
) -> TrainPreprocess:
    """Returns the training function (encoded image, seed `[2]`) -> uint8 `[size, size, 3]`.

    It applies `crop`, one of those below, then `flip` (half of the images, left to right), then
    RandAugment with that many layers (0 for none) and that magnitude.

    Raises:
      ValueError: a number is negative.
    """
    if randaugment_layers < 0 or randaugment_magnitude < 0:
        raise ValueError(
            "Expected randaugment.layers and randaugment.magnitude of at least 0; got "
            f"{randaugment_layers} and {randaugment_magnitude}."
        )

    def preprocess(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
        image = crop(encoded, seeds[0])
        if flip:
            image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        if randaugment_layers:
            image = randaugment(
                image,
                num_layers=randaugment_layers,
                magnitude=randaugment_magnitude,
                seed=seeds[2],
            )
        return tf.ensure_shape(image, (size, size, 3))

    return preprocess


def make_eval_preprocess(*, size: int, crop: str, resize: int) -> EvalPreprocess:
    """Returns the evaluation function encoded image -> uint8 `[size, size, 3]`.

    It decodes, then does what `make_eval_crop` does; the arguments and errors are the same.
    """
    central = make_eval_crop(size=size, crop=crop, resize=resize)
    return lambda encoded: central(decode(encoded))


def make_eval_crop(*, size: int, crop: str, resize: int) -> EvalPreprocess:
    """Returns the function uint8 `[height, width, 3]` -> uint8 `[size, size, 3]` of evaluation.

    Args:
      size: the side of the central crop, in pixels.
      crop: a key of `EVAL_CROPS`, which resizes the image first.
      resize: the size that it resizes to. The paper takes 224 of 256 pixels (Appendix C); the same
        ratio gives 448 of 512.

    Raises:
      ValueError: the crop is unknown, or `size` is larger than `resize`.
    """
    if crop not in EVAL_CROPS:
        raise unknown_name("evaluation crop", crop, EVAL_CROPS)
    if resize < size:
        raise ValueError(
            f"Expected eval_resize to be at least image_size={size}; got {resize}. The paper's "
            f"ratio gives eval_resize={size * 256 // 224}."
        )

    def central(image: tf.Tensor) -> tf.Tensor:
        resized = EVAL_CROPS[crop](image, resize)
        top, left = (tf.shape(resized)[0] - size) // 2, (tf.shape(resized)[1] - size) // 2
        cropped = resized[top : top + size, left : left + size]
        return tf.ensure_shape(tf.cast(cropped, tf.uint8), (size, size, 3))

    return central


def inception_crop(size: int, *, area: tuple[float, float]) -> TrainCrop:
    """Returns the "inception crop": a random part of the image, resized to `size` x `size`.

    The part has an aspect ratio between 3/4 and 4/3. Only that part of a JPEG is decoded.

    Args:
      size: the side of the result in pixels.
      area: the smallest and the largest fraction of the image's area that the part may cover.

    Raises:
      ValueError: `area` is not a range of fractions.

    Source: Szegedy et al., 2015 (arXiv:1409.4842), section 6; section 3 of the Mixer paper names it
    for pre-training on JFT-300M.
    """
    if len(area) != 2 or not 0.0 < area[0] <= area[1] <= 1.0:
        raise ValueError(
            "Expected train_crop.area to be two fractions of the image's area, "
            f"0 < smallest <= largest <= 1; got {area}."
        )

    def crop(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
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
            shape = tf.io.extract_jpeg_shape(encoded)
            with tf.control_dependencies([check_pixels(shape[:2])]):
                begin, extent = sample(shape)
            window = tf.concat([begin[:2], extent[:2]], axis=0)
            return tf.io.decode_and_crop_jpeg(encoded, window, channels=3, dct_method=_DCT)

        def decode_whole() -> tf.Tensor:
            image = decode(encoded)
            begin, extent = sample(tf.shape(image))
            return tf.slice(image, begin, extent)

        part = tf.cond(tf.io.is_jpeg(encoded), decode_part, decode_whole)
        resized = tf.image.resize(part, (size, size), tf.image.ResizeMethod.BILINEAR)
        return tf.cast(resized, tf.uint8)

    return crop


def random_crop(size: int, *, resize: int) -> TrainCrop:
    """Returns the fine-tuning crop: a random `size` x `size` part of the resized image.

    The shorter side is first resized to `resize` pixels, with the aspect ratio kept. Resizing is
    bilinear, because small images are enlarged, with antialiasing for the large ones.

    Raises:
      ValueError: `size` is larger than `resize`.
    """
    _check_resize(size, resize)

    def crop(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        position = tf.random.stateless_uniform(
            [], tf.random.experimental.stateless_fold_in(seed, 1)
        )
        image = _limit_aspect(decode(encoded), position)
        target = _shorter_side_to(resize, image)
        image = tf.image.resize(image, target, tf.image.ResizeMethod.BILINEAR, antialias=True)
        image = tf.cast(tf.round(image), tf.uint8)
        return tf.image.stateless_random_crop(image, (size, size, 3), seed)

    return crop


def squeezed_crop(size: int, *, resize: int) -> TrainCrop:
    """Returns the crop of the BiT-HyperRule: a random `size` x `size` part of the squeezed image.

    The whole image is first squeezed to `resize` x `resize` pixels. With `resize` equal to `size`
    nothing is cut off. Resizing is as in `random_crop`.

    Raises:
      ValueError: `size` is larger than `resize`.

    Source: the BiT paper (arXiv:1912.11370), section 3.3.
    """
    _check_resize(size, resize)

    def crop(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.image.stateless_random_crop(squeeze(encoded, resize), (size, size, 3), seed)

    return crop


def padded_crop(size: int, *, padding: int) -> TrainCrop:
    """Returns the crop of small images: a random `size` x `size` part of the padded image.

    `padding` black pixels are added on each side. An image of another size is squeezed to `size` x
    `size` before, as in `squeezed_crop`.

    Source: the ResNet paper (arXiv:1512.03385), section 4.2.
    """

    def crop(encoded: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        image = tf.pad(squeeze(encoded, size), [[padding, padding], [padding, padding], [0, 0]])
        return tf.image.stateless_random_crop(image, (size, size, 3), seed)

    return crop


def squeeze(encoded: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the whole image, decoded and squeezed to uint8 `[size, size, 3]`."""
    bilinear = tf.image.ResizeMethod.BILINEAR
    image = tf.image.resize(decode(encoded), (size, size), bilinear, antialias=True)
    return tf.cast(tf.round(image), tf.uint8)


def _check_resize(size: int, resize: int) -> None:
    if resize < size:
        raise ValueError(
            f"Expected train_crop.resize to be at least image_size={size}; got {resize}. The "
            f"paper's ratio for evaluation gives {size * 256 // 224}."
        )


def resize_crop(image: tf.Tensor, resize: int) -> tf.Tensor:
    """Returns the image squeezed to float32 `[resize, resize, 3]`."""
    return tf.image.resize(image, (resize, resize), tf.image.ResizeMethod.BILINEAR)


def resmall_crop(image: tf.Tensor, resize: int) -> tf.Tensor:
    """Returns the image as float32, its shorter side resized to `resize`, aspect ratio kept."""
    image = _limit_aspect(image, 0.5)
    return tf.image.resize(image, _shorter_side_to(resize, image), tf.image.ResizeMethod.AREA)


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Returns an encoded image as uint8 `[height, width, 3]`."""

    def decode_usual() -> tf.Tensor:
        with tf.control_dependencies([check_size(encoded)]):
            return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    image = tf.cond(
        tf.io.is_jpeg(encoded) | is_png(encoded),
        decode_usual,
        # numpy_function would drop zeros at the end of the bytes.
        lambda: tf.py_function(lambda tensor: decode_rare(tensor.numpy()), [encoded], tf.uint8),
    )
    return tf.ensure_shape(image, (None, None, 3))


def _limit_aspect(image: tf.Tensor, position: float | tf.Tensor) -> tf.Tensor:
    """Returns the image, or the part at `position` in [0, 1] of one that is too long."""
    shape = tf.shape(image)[:2]
    extent = tf.minimum(shape, _MAX_ASPECT * tf.reduce_min(shape))
    top, left = tf.unstack(tf.cast(position * tf.cast(shape - extent, tf.float32), tf.int32))
    return image[top : top + extent[0], left : left + extent[1]]


def _shorter_side_to(resize: int, image: tf.Tensor) -> tf.Tensor:
    """Returns the height and width (int32 `[2]`) whose shorter is `resize`, same aspect ratio."""
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = resize / tf.minimum(height, width)
    return tf.cast(tf.round([height * scale, width * scale]), tf.int32)


# Named as in Appendix C.
EVAL_CROPS: dict[str, Callable[[tf.Tensor, int], tf.Tensor]] = {
    "resize_crop": resize_crop,
    "resmall_crop": resmall_crop,
}
