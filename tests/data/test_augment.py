"""Crops and flips on the device: which pixels they take, how often, and from which randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from mixer.data import augment
from mixer.sharding import batch_sharding, create_mesh

KEY = jax.random.key(0)


def ramps(count: int, height: int, width: int) -> np.ndarray:
    """Images whose first channel is the row and whose second is the column, both from 1 on."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 1 + np.arange(height)[:, None]
    image[..., 1] = 1 + np.arange(width)[None]
    return np.broadcast_to(image, (count, height, width, 3))


def test_padded_crops_reach_every_position_and_pad_with_black():
    images = np.asarray(augment.padded_crop(8, padding=2)(ramps(2000, 8, 8), KEY))
    assert images.dtype == np.uint8
    rows, columns = np.arange(1, 9), np.arange(1, 9)
    places = []
    for image in images:
        # The pixel in the middle is never padding; it tells by how much the image moved.
        down, right = int(image[4, 4, 0]) - 5, int(image[4, 4, 1]) - 5
        places.append((down, right))
        is_row = (rows + down >= 1) & (rows + down <= 8)
        is_column = (columns + right >= 1) & (columns + right <= 8)
        inside = is_row[:, None] & is_column[None]
        np.testing.assert_array_equal(image[..., 0], inside * (rows + down)[:, None])
        np.testing.assert_array_equal(image[..., 1], inside * (columns + right)[None])
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert len(counts) == 25
    assert counts.min() > 40
    assert counts.max() < 130


def test_inception_crops_have_the_area_and_the_aspect_ratio_that_were_asked_for():
    # A pixel is 1/32 of the image, and neighbours differ by 4 levels.
    images = 4 * ramps(500, 32, 32)
    crops = np.asarray(augment.inception_crop(16, area=(0.3, 0.6))(images, KEY)).astype(float)
    # The slope of a ramp tells the extent of the part: levels per pixel of the result.
    extents = np.stack(
        [np.diff(crops[:, 4:12, 8, 0]).mean(1), np.diff(crops[:, 8, 4:12, 1]).mean(1)], axis=1
    )
    extents = extents * 16 / 4
    area, aspect = extents.prod(axis=1) / 32**2, extents[:, 1] / extents[:, 0]
    assert area.min() > 0.27
    assert area.max() < 0.65
    assert area.min() < 0.36
    assert area.max() > 0.54
    assert aspect.min() > 0.70
    assert aspect.max() < 1.43
    assert aspect.min() < 0.80
    assert aspect.max() > 1.25
    # They start everywhere, and never outside: the first row is at least the image's first.
    starts = crops[:, 0, 0, :2] / 4 - 1
    assert starts.min() >= 0.0
    assert starts.min() < 1.0
    assert (starts + extents).max() < 33.0
    assert (starts + extents).max() > 30.0


def test_an_inception_crop_that_never_fits_is_the_whole_image_resized():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    crops = augment.inception_crop(16, area=(1.0, 1.0))(images, KEY)
    expected = tf.cast(tf.image.resize(images, (16, 16), "bilinear"), tf.uint8).numpy()
    assert np.abs(np.asarray(crops).astype(int) - expected.astype(int)).max() <= 1  # truncation
    assert (np.asarray(crops) == expected).mean() > 0.98


def test_half_of_the_images_are_mirrored():
    images = ramps(1000, 4, 4)
    crop = lambda images, key: images  # noqa: E731
    assert augment.augment(images, KEY, crop=crop, flip=False) is images
    flipped = np.asarray(augment.augment(images, KEY, crop=crop, flip=True))
    is_mirrored = flipped[:, 0, 0, 1] == 4
    assert 430 < is_mirrored.sum() < 570
    np.testing.assert_array_equal(flipped[is_mirrored], images[is_mirrored][:, :, ::-1])
    np.testing.assert_array_equal(flipped[~is_mirrored], images[~is_mirrored])


def test_a_batch_is_a_function_of_seed_and_step_and_has_the_labels_of_its_images():
    rng = np.random.default_rng(0)
    dataset = {
        "images": np.arange(50, dtype=np.uint8)[:, None, None, None]
        + np.zeros((1, 8, 8, 3), np.uint8),
        "labels": np.arange(50, dtype=np.int32)[:, None],
    }
    sent = {"indices": rng.permutation(50)[:16].astype(np.int32)}
    crop = augment.padded_crop(8, padding=1)
    draw = jax.jit(augment.make_draw(7, crop=crop, flip=True))
    batch = draw(dataset, sent, jnp.int32(3))
    np.testing.assert_array_equal(batch["labels"][:, 0], sent["indices"])
    np.testing.assert_array_equal(np.asarray(batch["images"]).max(axis=(1, 2, 3)), sent["indices"])
    again = draw(dataset, sent, jnp.int32(3))
    np.testing.assert_array_equal(again["images"], batch["images"])
    for other in (
        draw(dataset, sent, 4),
        augment.make_draw(8, crop=crop, flip=True)(dataset, sent, 3),
    ):
        assert np.any(np.asarray(other["images"]) != np.asarray(batch["images"]))


@pytest.mark.parametrize("devices", [1, 8])
def test_the_devices_share_a_batch_and_its_random_numbers(devices):
    rows = batch_sharding(create_mesh(jax.devices()[:devices]))
    dataset = {"images": np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)}
    sent = {"indices": jax.device_put(np.arange(16, dtype=np.int32), rows)}
    draw = augment.make_draw(0, crop=augment.inception_crop(12, area=(0.5, 1.0)), flip=True)
    batch = jax.jit(draw, out_shardings={"images": rows})(dataset, sent, 5)
    alone = jax.jit(draw)(dataset, {"indices": np.arange(16, dtype=np.int32)}, 5)
    np.testing.assert_array_equal(batch["images"], alone["images"])
