"""Crops and flips of a whole batch on the device, for data sets that are kept there.

`mixer/data/preprocess.py` has the same augmentations for single images on the host; they draw other
random numbers. Here images are uint8 `[B, h, w, 3]`, all of one size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mixer.batch import DeviceBatch, Draw

_MAX_LOG_ASPECT = math.log(4 / 3)
_STREAM = 2  # of the random numbers of a step; the training step splits off others
_TRIES = 10  # at a part that lies within the image; after these the whole image is taken

Crop = Callable[[jax.Array, jax.Array], jax.Array]  # (images, key) -> images of the wanted size


def make_draw(seed: int, *, crop: Crop, flip: bool) -> Draw:
    """Returns (dataset, sent, step) -> batch: the images at `sent["indices"]`, augmented.

    The random numbers are drawn for the whole batch from (`seed`, step).
    """

    def draw(dataset: DeviceBatch, sent: DeviceBatch, step: jax.Array) -> DeviceBatch:
        chosen = {name: array[sent["indices"]] for name, array in dataset.items()}
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), _STREAM)
        return {**chosen, "images": augment(chosen["images"], key, crop=crop, flip=flip)}

    return draw


def augment(images: jax.Array, key: jax.Array, *, crop: Crop, flip: bool) -> jax.Array:
    """Returns the images `[B, size, size, 3]`, cropped and, with `flip`, half of them mirrored."""
    crop_key, flip_key = jax.random.split(key)
    images = crop(images, crop_key)
    if not flip:
        return images
    is_flipped = jax.random.bernoulli(flip_key, 0.5, images.shape[:1])
    return jnp.where(is_flipped[:, None, None, None], images[:, :, ::-1], images)


def padded_crop(size: int, *, padding: int) -> Crop:
    """Returns the crop of small images: a random part of the image with `padding` black pixels.

    The images are `[B, size, size, 3]` already.

    Source: the ResNet paper (arXiv:1512.03385), section 4.2.
    """

    def crop(images: jax.Array, key: jax.Array) -> jax.Array:
        sides = (padding, padding)
        padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
        corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

        def one(image: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, 3))

        return jax.vmap(one)(padded, corners)

    return crop


def inception_crop(size: int, *, area: tuple[float, float]) -> Crop:
    """Returns the crop of a random part of the image, resized bilinearly to `size` x `size`.

    The part has an aspect ratio between 3/4 and 4/3 and a fraction of the image's area between the
    two of `area`.

    Source: Szegedy et al., 2015 (arXiv:1409.4842), section 6.
    """

    def crop(images: jax.Array, key: jax.Array) -> jax.Array:
        count, height, width, _ = images.shape
        tries = (count, _TRIES)
        keys = jax.random.split(key, 3)
        pixels = jax.random.uniform(keys[0], tries, minval=area[0], maxval=area[1]) * height * width
        log_aspect = jax.random.uniform(keys[1], tries, minval=-1.0, maxval=1.0) * _MAX_LOG_ASPECT
        extents = jnp.sqrt(pixels[..., None] * jnp.exp(log_aspect[..., None] * jnp.array([1, -1])))
        whole = jnp.array([height, width], jnp.float32)
        fits = jnp.all(extents <= whole, axis=-1)
        first = jnp.argmax(fits, axis=1)[:, None, None]
        extent = jnp.take_along_axis(extents, first, axis=1)[:, 0]
        extent = jnp.where(jnp.any(fits, axis=1)[:, None], extent, whole)  # [B, 2]
        corner = jax.random.uniform(keys[2], (count, 2)) * (whole - extent)
        rows, columns = (
            _bilinear(corner[:, axis], extent[:, axis], images.shape[1 + axis], size)
            for axis in (0, 1)
        )
        images = images.astype(jnp.float32)
        resized = jnp.einsum("bih,bjw,bhwc->bijc", rows, columns, images)
        return resized.astype(jnp.uint8)

    return crop


def _bilinear(corner: jax.Array, extent: jax.Array, pixels: int, size: int) -> jax.Array:
    """Returns the weights `[B, size, pixels]` that resize the part of a line to `size` pixels.

    `corner` and `extent`, `[B]`, are in pixels. Outside of the part it reads the line's pixels,
    outside of the line its last pixel.
    """
    centres = (jnp.arange(size) + 0.5) / size
    at = corner[:, None] + extent[:, None] * centres - 0.5
    at = jnp.clip(at, 0.0, pixels - 1.0)[..., None]
    return jnp.maximum(0.0, 1.0 - jnp.abs(at - jnp.arange(pixels)))
