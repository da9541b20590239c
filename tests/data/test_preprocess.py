"""Crops, resizing and flips."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image

from mixer.data.preprocess import (
    inception_crop,
    make_eval_preprocess,
    make_train_preprocess,
    padded_crop,
    random_crop,
    squeezed_crop,
)
from mixer.data.randaugment import randaugment


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return load_sample_image("china.jpg")  # uint8 [427, 640, 3]


@pytest.fixture(scope="module")
def encoded(photo) -> dict[str, tf.Tensor]:
    return {"jpeg": tf.io.encode_jpeg(photo, quality=95), "png": tf.io.encode_png(photo)}


def seed(number: int) -> tf.Tensor:
    return tf.constant([0, number], tf.int64)


def train_preprocess(**changes):
    arguments = dict(
        size=16,
        crop=inception_crop(16, area=(0.05, 1.0)),
        flip=True,
        randaugment_layers=0,
        randaugment_magnitude=0.0,
    )
    return make_train_preprocess(**{**arguments, **changes})


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_resize_crop_squeezes_and_takes_the_centre(encoded, kind):
    image = make_eval_preprocess(size=56, crop="resize_crop", resize=64)(encoded[kind]).numpy()
    assert (image.shape, image.dtype) == ((56, 56, 3), np.uint8)
    squeezed = tf.image.resize(tf.io.decode_image(encoded[kind]), (64, 64), "bilinear").numpy()
    np.testing.assert_array_equal(image, squeezed[4:60, 4:60].astype(np.uint8))


def test_resmall_crop_keeps_the_aspect_ratio_and_averages_areas(photo):
    # 427 x 640 shrunk by 4, exactly: 424 x 640 -> 106 x 160, of which the central 96 x 96.
    png = tf.io.encode_png(photo[:424])
    image = make_eval_preprocess(size=96, crop="resmall_crop", resize=106)(png).numpy()
    means = photo[:424].reshape(106, 4, 160, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image, np.floor(means[5:101, 32:128]), atol=1)


@pytest.mark.parametrize("size", [224, 448])
@pytest.mark.parametrize("crop", ["resize_crop", "resmall_crop"])
def test_the_evaluation_crops_of_the_paper(encoded, crop, size):
    image = make_eval_preprocess(size=size, crop=crop, resize=size * 256 // 224)(encoded["jpeg"])
    assert image.shape == (size, size, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(crop="resize"), "Unknown evaluation crop 'resize'.*'resize_crop'"),
        (dict(resize=200), "at least image_size=224; got 200. .* eval_resize=256"),
    ],
)
def test_evaluation_crops_that_cannot_work_are_refused(changes, message):
    arguments = {**dict(size=224, crop="resize_crop", resize=256), **changes}
    with pytest.raises(ValueError, match=message):
        make_eval_preprocess(**arguments)


def test_a_crop_of_a_jpeg_is_the_same_part_as_that_of_a_png(encoded):
    for number in range(5):
        jpeg, png = (
            inception_crop(32, area=(0.05, 1.0))(encoded[kind], seed(number)).numpy().astype(int)
            for kind in ("jpeg", "png")
        )
        assert np.abs(jpeg - png).mean() < 4  # the loss of the JPEG encoding


def test_crops_have_the_requested_areas_and_aspect_ratios():
    # An image whose pixels are their own coordinates shows which part was taken.
    ramp = np.zeros((200, 250, 3), np.uint8)
    ramp[..., 0] = np.arange(200)[:, None]
    ramp[..., 1] = np.arange(250)[None]
    png = tf.io.encode_png(ramp)
    areas = []
    for number in range(300):
        crop = inception_crop(101, area=(0.2, 0.6))(png, seed(number)).numpy().astype(float)
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
    evaluate = make_eval_preprocess(size=8, crop="resize_crop", resize=8)
    image = evaluate(tf.io.encode_png(grey)).numpy()
    np.testing.assert_array_equal(image, np.repeat(grey, 3, axis=2))


def test_flips_half_of_the_images(encoded):
    plain, flipping = (train_preprocess(flip=flip) for flip in (False, True))
    flipped = 0
    for number in range(100):
        image, out = (f(encoded["jpeg"], seed(number)).numpy() for f in (plain, flipping))
        is_flipped = np.array_equal(out, image[:, ::-1])
        assert is_flipped or np.array_equal(out, image)
        flipped += is_flipped
    assert flipped == pytest.approx(50, abs=20)


@pytest.mark.parametrize("layers", [0, 2])
def test_training_images_depend_on_the_seed_alone(encoded, layers):
    preprocess = train_preprocess(randaugment_layers=layers, randaugment_magnitude=15.0)
    images = [preprocess(encoded["jpeg"], seed(number)).numpy() for number in (1, 1, 2)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_randaugment_comes_last(encoded):
    plain = train_preprocess()
    augmented = train_preprocess(randaugment_layers=2, randaugment_magnitude=15.0)
    for number in range(3):
        image = plain(encoded["jpeg"], seed(number))
        last_seed = tf.random.experimental.stateless_split(seed(number), 3)[2]
        expected = randaugment(image, num_layers=2, magnitude=15.0, seed=last_seed)
        np.testing.assert_array_equal(augmented(encoded["jpeg"], seed(number)), expected)


@pytest.mark.parametrize("area", [(0.5,), (0.0, 1.0), (0.6, 0.5), (0.5, 1.1)])
def test_areas_that_are_not_a_range_are_refused(area):
    with pytest.raises(ValueError, match="0 < smallest <= largest <= 1; got"):
        inception_crop(16, area=area)


def test_negative_randaugment_is_refused():
    with pytest.raises(ValueError, match="at least 0; got -1 and 0"):
        train_preprocess(randaugment_layers=-1)


def test_random_crops_keep_the_aspect_ratio_and_reach_every_position():
    # Coordinates as pixels: 40 x 60 enlarged to 80 x 120, of which any 64 x 64.
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[..., 0] = 4 * np.arange(40)[:, None]
    ramp[..., 1] = 4 * np.arange(60)[None]
    png, crop = tf.io.encode_png(ramp), random_crop(64, resize=80)
    corners = []
    for number in range(200):
        image = crop(png, seed(number)).numpy().astype(float)
        assert image.shape == (64, 64, 3)
        # Two output pixels for one of the input: both coordinates grow by 2 a pixel.
        assert np.diff(image[8:56, 32, 0]).mean() == pytest.approx(2, abs=0.1)
        assert np.diff(image[32, 8:56, 1]).mean() == pytest.approx(2, abs=0.1)
        corners.append((image[0, 0, 0] / 2, image[0, 0, 1] / 2))
    tops, lefts = np.array(corners).T
    assert (tops.min(), tops.max()) == (pytest.approx(0, abs=1), pytest.approx(16, abs=1))
    assert (lefts.min(), lefts.max()) == (pytest.approx(0, abs=1), pytest.approx(56, abs=1))
    with pytest.raises(ValueError, match="resize to be at least image_size=64; got 63"):
        random_crop(64, resize=63)


def test_padded_crops_reach_every_position_and_pad_with_black():
    rows, columns = np.arange(1, 9)[:, None], np.arange(1, 9)[None]
    ramp = np.stack([rows + 0 * columns, columns + 0 * rows, 0 * rows * columns], -1)
    png, crop = tf.io.encode_png(ramp.astype(np.uint8)), padded_crop(8, padding=2)
    places = set()
    for number in range(200):
        image = crop(png, seed(number)).numpy().astype(int)
        down, right = image[4, 4, 0] - 5, image[4, 4, 1] - 5
        places.add((down, right))
        inside = (abs(rows + down - 4.5) < 4) & (abs(columns + right - 4.5) < 4)
        np.testing.assert_array_equal(image[..., 0], inside * (rows + down))
        np.testing.assert_array_equal(image[..., 1], inside * (columns + right))
    assert len(places) == 25
    # Another size is squeezed first.
    large = tf.io.encode_png(np.repeat(np.repeat(ramp, 2, 0), 3, 1).astype(np.uint8))
    whole = padded_crop(8, padding=0)(large, seed(0)).numpy()
    np.testing.assert_allclose(whole, ramp, atol=1)


def test_squeezed_crops_are_of_the_whole_image_and_reach_every_position():
    # Coordinates as pixels: 40 x 60 squeezed to 80 x 80, of which any 64 x 64.
    ramp = np.zeros((40, 60, 3), np.uint8)
    ramp[..., 0] = 4 * np.arange(40)[:, None]
    ramp[..., 1] = 4 * np.arange(60)[None]
    png, crop = tf.io.encode_png(ramp), squeezed_crop(64, resize=80)
    corners = []
    for number in range(100):
        image = crop(png, seed(number)).numpy().astype(float)
        assert image.shape == (64, 64, 3)
        assert np.diff(image[8:56, 32, 0]).mean() == pytest.approx(2, abs=0.1)
        assert np.diff(image[32, 8:56, 1]).mean() == pytest.approx(3, abs=0.1)
        corners.append((image[0, 0, 0] / 2, image[0, 0, 1] / 3))
    for positions in np.array(corners).T:
        assert positions.min() == pytest.approx(0, abs=1)
        assert positions.max() == pytest.approx(16, abs=1)
    with pytest.raises(ValueError, match="resize to be at least image_size=64; got 63"):
        squeezed_crop(64, resize=63)


def test_a_squeezed_crop_may_keep_the_whole_image():
    ramp = np.zeros((30, 90, 3), np.uint8)
    ramp[..., 1] = 2 * np.arange(90)[None]
    png, crop = tf.io.encode_png(ramp), squeezed_crop(30, resize=30)
    image = crop(png, seed(0)).numpy()
    np.testing.assert_array_equal(image, crop(png, seed(1)).numpy())
    # Each column is the mean of about three: 0 to 89 become 1, 4, 7, ..., doubled.
    np.testing.assert_allclose(image[0, 1:-1, 1], 2 * (3 * np.arange(1, 29) + 1), atol=1)


@pytest.mark.parametrize("shape", [(1, 65_000), (65_000, 1), (3, 50)])
def test_a_line_of_pixels_is_resized_in_part(shape):
    grey = np.linspace(0, 255, max(shape)).astype(np.uint8)
    grey = np.broadcast_to(grey if shape[1] == max(shape) else grey[:, None], shape)[..., None]
    png = tf.io.encode_png(np.repeat(grey, 3, axis=2))
    image = make_eval_preprocess(size=16, crop="resmall_crop", resize=16)(png).numpy()
    assert abs(image.mean() - 127) < 3  # the middle
    crops = [random_crop(16, resize=18)(png, seed(number)).numpy().mean() for number in range(40)]
    assert min(crops) < 80  # any part
    assert max(crops) > 170


def test_the_aspect_ratio_is_kept_up_to_a_limit(photo):
    strip = photo[:40, :320]  # 1 : 8
    image = make_eval_preprocess(size=20, crop="resmall_crop", resize=20)(tf.io.encode_png(strip))
    whole = tf.image.resize(strip, (20, 160), "area").numpy().astype(np.uint8)
    np.testing.assert_array_equal(image, whole[:, 70:90])
