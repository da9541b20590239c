"""Crops, resizing and flips."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from mixer.data.preprocess import make_train_preprocess, random_crop, random_flip, whole_image


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return load_sample_image("china.jpg")  # uint8 [427, 640, 3]


@pytest.fixture(scope="module")
def encoded(photo) -> dict[str, tf.Tensor]:
    return {"jpeg": tf.io.encode_jpeg(photo, quality=95), "png": tf.io.encode_png(photo)}


def seed(number: int) -> tf.Tensor:
    return tf.constant([0, number], tf.int64)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_the_whole_image_is_resized_bilinearly(encoded, kind):
    image = whole_image(encoded[kind], 64).numpy()
    assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
    expected = tf.image.resize(tf.io.decode_image(encoded[kind]), (64, 64), "bilinear")
    np.testing.assert_array_equal(image, expected.numpy().astype(np.uint8))


def test_a_crop_of_a_jpeg_is_the_same_part_as_that_of_a_png(encoded):
    for number in range(5):
        jpeg, png = (
            random_crop(encoded[kind], 32, area=(0.05, 1.0), seed=seed(number)).numpy().astype(int)
            for kind in ("jpeg", "png")
        )
        assert np.abs(jpeg - png).mean() < 4  # the loss of the JPEG encoding


def test_crops_have_the_areas_and_aspect_ratios_asked_for():
    # An image whose pixels are their own coordinates shows which part was taken.
    ramp = np.zeros((200, 250, 3), np.uint8)
    ramp[..., 0] = np.arange(200)[:, None]
    ramp[..., 1] = np.arange(250)[None]
    png = tf.io.encode_png(ramp)
    areas = []
    for number in range(300):
        crop = random_crop(png, 101, area=(0.2, 0.6), seed=seed(number)).numpy().astype(float)
        # Centres of the first and last output pixel are 100 / 101 of the extent apart.
        height = np.ptp(crop[:, 50, 0]) * 101 / 100
        width = np.ptp(crop[50, :, 1]) * 101 / 100
        assert 0.72 < width / height < 1.39
        areas.append(height * width / (200 * 250))
    assert 0.18 < min(areas) < 0.23
    assert 0.56 < max(areas) < 0.62
    assert np.mean(areas) == pytest.approx(0.4, abs=0.03)


def test_a_grey_image_is_repeated_over_the_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    image = whole_image(tf.io.encode_png(grey), 8).numpy()
    np.testing.assert_array_equal(image, np.repeat(grey, 3, axis=2))


def test_flips_half_of_the_images():
    image = tf.reshape(tf.range(12, dtype=tf.int32), (2, 2, 3))
    flipped = 0
    for number in range(400):
        out = random_flip(image, seed=seed(number)).numpy()
        is_flipped = np.array_equal(out, image.numpy()[:, ::-1])
        assert is_flipped or np.array_equal(out, image)
        flipped += is_flipped
    assert flipped == pytest.approx(200, abs=40)


@pytest.mark.parametrize("flip", [False, True])
def test_training_images_depend_on_the_seed_alone(encoded, flip):
    preprocess = make_train_preprocess(size=16, crop_area=(0.05, 1.0), flip=flip)
    images = [preprocess(encoded["jpeg"], seed(number)).numpy() for number in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("area", [(0.5,), (0.0, 1.0), (0.6, 0.5), (0.5, 1.1)])
def test_areas_that_are_no_range_are_refused(area):
    with pytest.raises(ValueError, match="0 < least <= most <= 1; got"):
        make_train_preprocess(size=16, crop_area=area, flip=False)
