"""RandAugment: each op against the reference's pixels, and the random choice among them."""

import os
import pathlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from cases import slow_after

from mixer.data.randaugment import OPS, apply_op, randaugment

# Made by the reference implementation; keys IMAGE/OP/M<magnitude>/<sign>.
GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "randaugment_ops.npz"
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    """A colourful image [24, 24, 3] without the grey 128 and without the extremes."""
    image = np.random.default_rng(0).integers(20, 230, (24, 24, 3)).astype(np.uint8)
    return np.where(image == 128, np.uint8(129), image)


@pytest.fixture(scope="module")
def ramp() -> np.ndarray:
    """Every value once per channel, [16, 16, 3]."""
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def as_graph(name, magnitude, shape, negate=False):
    """Returns apply_op traced for images of this static shape."""
    spec = tf.TensorSpec(shape, tf.uint8)
    return tf.function(
        lambda image: apply_op(image, name, magnitude, negate, (20, 33)), input_signature=[spec]
    )


def augmented(image, count, *, num_layers, magnitude, static=True):
    """Returns `count` augmentations of an image in a tf.data map, [count, height, width, 3]."""

    def augment(number):
        pixels = tf.constant(image) if static else tf.io.decode_png(tf.io.encode_png(image))
        seed = tf.stack([tf.constant(7, tf.int64), number])
        return randaugment(pixels, num_layers=num_layers, magnitude=magnitude, seed=seed)

    dataset = tf.data.Dataset.range(count).map(augment, num_parallel_calls=2).batch(count)
    return next(iter(dataset)).numpy()


@pytest.mark.parametrize("mode", slow_after(2, ["eager", "unknown shape", "static shape"]))
@pytest.mark.parametrize("name", OPS)
def test_every_golden_pixel_is_reproduced(golden, name, mode):
    keys = [key for key in golden if f"/{name}/" in key]
    assert len(keys) == 2 * 5 * (2 if name in MOVES else 1)
    for key in keys:
        number, _, magnitude, sign = key.split("/")
        image, magnitude, negate = golden["images"][int(number)], int(magnitude[1:]), sign == "-"
        if mode == "eager":
            out = apply_op(image, name, magnitude, negate, (20, 33)).numpy()
        else:
            shape = (64, 64, 3) if mode == "static shape" else (None, None, 3)
            out = as_graph(name, magnitude, shape, negate)(image).numpy()
        assert out.dtype == np.uint8
        differs = out != golden[key]
        assert not differs.any(), f"{key}: {differs.mean():.2%} of the values differ"


ALL_PIXELS = """
import hashlib, sys
import numpy as np
import tensorflow as tf
from mixer.data.preprocess import inception_crop, make_eval_preprocess, random_crop
from mixer.data.randaugment import OPS, apply_op

golden = dict(np.load(sys.argv[1]))
rng = np.random.default_rng(0)
colours = rng.integers(0, 256, (400, 300, 3)).astype(np.uint8)
digest = hashlib.sha256()
for image in (*golden["images"], colours):
    for name in OPS:
        for magnitude in (0, 7.25, 15):
            digest.update(apply_op(image, name, magnitude, False, (20, 33)).numpy().tobytes())
for encoded in (tf.io.encode_png(colours), tf.io.encode_jpeg(colours)):
    seed = tf.constant([0, 1])
    for crop in (inception_crop(32, area=(0.05, 1.0)), random_crop(200, resize=224)):
        digest.update(crop(encoded, seed).numpy().tobytes())
    for crop in ("resize_crop", "resmall_crop"):
        preprocess = make_eval_preprocess(size=224, crop=crop, resize=256)
        digest.update(preprocess(encoded).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_pixels_do_not_depend_on_the_kernels_that_tensorflow_picks_for_the_processor():
    # oneDNN has kernels with fused multiply-adds; it and its instructions depend on the processor.
    settings = [
        {"TF_ENABLE_ONEDNN_OPTS": "0"},
        {"TF_ENABLE_ONEDNN_OPTS": "1"},
        {"TF_ENABLE_ONEDNN_OPTS": "1", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    ]
    digests = {
        subprocess.run(
            [sys.executable, "-c", ALL_PIXELS, GOLDEN],
            cwd=GOLDEN.parent.parent.parent,
            env={**os.environ, **setting},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for setting in settings
    }
    assert len(digests) == 1


def test_the_golden_file_is_complete(golden):
    assert len(golden) == 211
    assert {key.split("/")[1] for key in golden if key != "images"} == set(OPS)


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("name", MOVES)
def test_moves_by_lookup_equal_those_of_the_kernel(name, negate):
    # With a static shape pixels are looked up, without one TensorFlow's kernel moves them.
    image = np.random.default_rng(0).integers(0, 256, (224, 200, 3)).astype(np.uint8)
    for magnitude in (7.25, 15):
        by_table = as_graph(name, magnitude, (224, 200, 3), negate)(image).numpy()
        by_kernel = as_graph(name, magnitude, (None, None, 3), negate)(image).numpy()
        np.testing.assert_array_equal(by_table, by_kernel)
        assert not np.array_equal(by_table, image)


def test_rotates_counter_clockwise(small):
    image = small[:23, :23]  # magnitude 30 is 90 degrees
    np.testing.assert_array_equal(apply_op(image, "Rotate", 30), np.rot90(image))
    np.testing.assert_array_equal(apply_op(image, "Rotate", 30, negate=True), np.rot90(image, 3))


def test_translates_by_ten_pixels_per_magnitude(small):
    expected = np.full_like(small, 128)
    expected[:, :-10] = small[:, 10:]
    np.testing.assert_array_equal(apply_op(small, "TranslateX", 1), expected)
    expected = np.full_like(small, 128)
    expected[20:] = small[:-20]
    np.testing.assert_array_equal(apply_op(small, "TranslateY", 2, negate=True), expected)
    assert (apply_op(small, "TranslateX", 15).numpy() == 128).all()


def test_shears_each_row_by_its_height(small):
    sheared = apply_op(small, "ShearX", 10).numpy()  # 0.3 pixels per row
    np.testing.assert_array_equal(sheared[:2], small[:2])
    np.testing.assert_array_equal(sheared[10, :-3], small[10, 3:])
    assert (sheared[10, -3:] == 128).all()


def test_cuts_a_square_out_that_the_border_clips(small):
    expected = small.copy()
    expected[:11, 12:] = 128  # 8 pixels to each side of (3, 20)
    out = apply_op(small, "Cutout", 2, cutout_center=(3, 20))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("magnitude", "threshold"), [(0, 0), (5, 128), (9, 230), (10, 0), (15, 128), (20, 0)]
)
def test_the_solarize_threshold_wraps_at_256(ramp, magnitude, threshold):
    expected = np.where(ramp < threshold, ramp, 255 - ramp)
    np.testing.assert_array_equal(apply_op(ramp, "Solarize", magnitude), expected)


@pytest.mark.parametrize(
    ("magnitude", "mask"), [(0, 0x80), (5, 0xC0), (10, 0xF0), (15, 0xFC), (20, 0xFF), (25, 0x80)]
)
def test_posterize_keeps_more_bits_at_higher_magnitudes(ramp, magnitude, mask):
    np.testing.assert_array_equal(apply_op(ramp, "Posterize", magnitude), ramp & mask)


@pytest.mark.parametrize(
    ("size", "value", "expected"),
    [
        (224, 100, 13),  # 196 + 1.9 * (100 - 196) = 13.6
        (224, 200, 203),  # 196 + 1.9 * (200 - 196) = 203.6
        (64, 100, 175),  # 16 + 1.9 * (100 - 16) = 175.6
        (300, 250, 245),  # 255 + 1.9 * (250 - 255) = 245.5: 351 is clipped
    ],
)
def test_contrast_is_relative_to_the_number_of_pixels(size, value, expected):
    image = np.full((size, size, 3), value, np.uint8)
    for shape in ((size, size, 3), (None, None, 3)):
        assert (as_graph("Contrast", 10, shape)(image).numpy() == expected).all()


def test_colour_is_relative_to_the_grey_of_tensorflow():
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    grey = tf.image.rgb_to_grayscale(image).numpy().astype(np.float32)
    blended = grey + np.float32(1.5 * 1.8 + 0.1) * (image - grey)
    expected = np.clip(blended, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(apply_op(image, "Color", 15), expected)


@pytest.mark.parametrize("size", [16, 20, 24])  # steps of 0 or 1, 1, 2
def test_equalizes_each_channel_by_its_histogram(small, size):
    image = small[:size, :size]
    expected = image.copy()
    for channel in range(3):
        values, counts = np.unique(image[..., channel], return_counts=True)
        step = (size**2 - counts[-1]) // 255
        if step:
            table = ((np.cumsum(counts) - counts + step // 2) // step).clip(0, 255)
            expected[..., channel] = table[np.searchsorted(values, image[..., channel])]
    np.testing.assert_array_equal(apply_op(image, "Equalize", 15), expected)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_a_constant_channel_is_unchanged(small, name):
    image = small.copy()
    image[..., 1] = 77
    out = apply_op(image, name, 15).numpy()
    assert (out[..., 1] == 77).all()
    assert np.ptp(out[..., 0]) > np.ptp(image[..., 0])


def test_bad_arguments_are_named(small):
    with pytest.raises(ValueError, match="Unknown op 'Sharpnes'.*Did you mean 'Sharpness'"):
        apply_op(small, "Sharpnes", 10)
    with pytest.raises(ValueError, match="magnitude of at least 0; got -1"):
        apply_op(small, "Rotate", -1)
    with pytest.raises(ValueError, match="Expected cutout_center"):
        apply_op(small, "Cutout", 10)
    with pytest.raises(ValueError, match="num_layers of at least 0; got -1"):
        randaugment(small, num_layers=-1, magnitude=10, seed=tf.constant([0, 0]))


def single_ops(image, magnitude):
    """Returns bytes of the result -> op and sign, for every op except Cutout."""
    signed = [(name, negate) for name in OPS for negate in (False, True)[: 1 + (name in MOVES)]]
    return {
        apply_op(image, name, magnitude, negate).numpy().tobytes(): (name, negate)
        for name, negate in signed
        if name != "Cutout"
    }


def test_ops_signs_and_centres_are_uniform(small):
    known = single_ops(small, 1)
    assert len(known) == 20  # so that each op is known by its result
    drawn, centers = Counter(), []
    for image in augmented(small, 3200, num_layers=1, magnitude=1):
        if image.tobytes() in known:
            drawn[known[image.tobytes()]] += 1
        else:
            drawn["Cutout", False] += 1
            hole = np.argwhere((image == 128).all(axis=2))
            (top, left), (bottom, right) = hole.min(axis=0), hole.max(axis=0) + 1
            center = (top + 4 if top else bottom - 4, left + 4 if left else right - 4)
            np.testing.assert_array_equal(image, apply_op(small, "Cutout", 1, False, center))
            centers.append(center)
    for name in OPS:  # 200 each, standard deviation 14
        assert drawn[name, False] + drawn[name, True] == pytest.approx(200, abs=60), name
    for name in MOVES:  # 100 each, standard deviation 10
        assert drawn[name, True] == pytest.approx(100, abs=45), name
    centers = np.array(centers)
    assert (centers.min(), centers.max()) == (0, 23)
    # 11.5, standard deviation 0.5; rows and columns are drawn independently.
    np.testing.assert_allclose(centers.mean(axis=0), 11.5, atol=2)
    assert abs(np.corrcoef(centers.T)[0, 1]) < 0.3


def test_layers_are_drawn_independently_and_applied_in_turn(small):
    known = {
        pixels: (first, second)
        for once, (first, _) in single_ops(small, 1).items()
        for pixels, (second, _) in single_ops(
            np.frombuffer(once, np.uint8).reshape(small.shape), 1
        ).items()
    }
    images = augmented(small, 1000, num_layers=2, magnitude=1)
    pairs = Counter(known.get(image.tobytes()) for image in images)
    # Without Cutout (15 / 16)^2 = 88% of the draws; of their 225 pairs some look alike.
    assert pairs.pop(None) == pytest.approx(121, abs=50)
    assert len(pairs) > 170
    assert sum(count for (first, second), count in pairs.items() if first == second) < 120


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_the_seed_determines_the_image(small, dtype):
    def images(seeds):
        return [
            randaugment(small, num_layers=2, magnitude=3, seed=tf.constant(seed, dtype)).numpy()
            for seed in seeds
        ]

    seeds = [(first, second) for first in range(5) for second in range(5)]
    once = images(seeds)
    np.testing.assert_array_equal(once, images(seeds))
    assert len({image.tobytes() for image in once}) >= 20  # of 25; chance may repeat an op


def test_a_pipeline_needs_no_static_shape(small):
    image = np.tile(small, (2, 3, 1))  # [48, 72, 3]
    known, unknown = (
        augmented(image, 100, num_layers=2, magnitude=3, static=static) for static in (True, False)
    )
    np.testing.assert_array_equal(known, unknown)
    assert len({pixels.tobytes() for pixels in known}) > 80


def test_no_layers_change_nothing(small):
    images = augmented(small, 3, num_layers=0, magnitude=15)
    np.testing.assert_array_equal(images, [small] * 3)
