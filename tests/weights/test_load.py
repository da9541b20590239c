"""Weights by name: from checkpoints, files and the catalogue, into a model."""

import pathlib

import jax
import numpy as np
import pytest

from mixer.data.datasets import open_dataset
from mixer.models.mixer import MlpMixer
from mixer.reporting.metrics import read_metrics
from mixer.train_loop import train
from mixer.weights import load_params, save_params, weights
from mixer.weights.eval_recipe import EvalRecipe
from mixer.weights.load import LoadedModel, load_model
from mixer.weights.weights import load_weights, resized_params

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TINY = str(GOLDEN / "mixer_tiny.npz")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "mixer_tiny.io.npz"))


def logits_of(loaded: LoadedModel, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(loaded.model.apply)({"params": loaded.params}, images))


def test_a_file_becomes_a_model(golden):
    loaded = load_model(TINY)
    assert (loaded.image_size, loaded.class_names) == (16, None)
    np.testing.assert_allclose(logits_of(loaded, golden["images"]), golden["logits"], atol=1e-5)
    exact = load_model(TINY, gelu="exact")
    assert not np.allclose(logits_of(exact, golden["images"]), golden["logits"], atol=1e-5)


def test_a_larger_image_gives_the_mean_over_its_tiles(golden):
    loaded = load_model(TINY, image_size=32)
    assert (loaded.image_size, loaded.model.tokens_mlp_dim) == (32, 4 * 20)
    tiles = np.tile(golden["images"], (1, 2, 2, 1))  # four times the same image
    np.testing.assert_allclose(logits_of(loaded, tiles), golden["logits"], atol=1e-5)


def test_the_checkpoint_of_a_run_becomes_the_model_that_was_evaluated(
    tmp_path, digits_config, data_dir, no_pictures, on_one_device, monkeypatch
):
    digits_config.model.gelu_approximate = False
    digits_config.polyak_decay = 0.5
    digits_config.num_epochs = 12 * 64 / 1433
    digits_config.eval_resize = digits_config.image_size = 8
    digits_config.eval_every = 4
    workdir = tmp_path / "workdir"
    train(digits_config, workdir)
    monkeypatch.chdir(tmp_path)
    loaded = load_model("workdir")
    assert loaded.class_names == tuple("0123456789")
    assert (loaded.image_size, loaded.model.gelu_approximate) == (8, False)
    assert loaded.recipe == EvalRecipe("resize_crop", 8, 8, "digits", "test", data_dir)
    # The embedded test images are 8 x 8, so evaluation saw their pixels as they are.
    dataset = open_dataset("digits", "test", data_dir)
    parsed = dataset.parse(dataset.records.read(np.arange(364)))
    pixels = np.stack([decode(image) for image in parsed["image"].numpy()])
    logits = logits_of(loaded, pixels / np.float32(127.5) - 1)
    correct = (logits.argmax(-1) == parsed["labels"].numpy()[:, 0]).mean()
    assert correct == pytest.approx(read_metrics(workdir)[-1]["test/top1"], abs=1e-6)
    one_step = load_weights(str(workdir / "checkpoints" / "10"))
    assert one_step.description == "checkpoint of step 10"
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, one_step.params, loaded.params)


def decode(png: bytes) -> np.ndarray:
    import tensorflow as tf

    return tf.io.decode_png(png, channels=3).numpy()


@pytest.mark.parametrize("entry", ["sam/Mixer-B_16", "timm/mixer_b16_224.miil_in21k_ft_in1k"])
def test_the_catalogue_decides_gelu_and_range_of_the_images(entry, golden, monkeypatch):
    monkeypatch.setattr(weights, "fetch", lambda name: {entry: pathlib.Path(TINY)}[name])
    published = weights.CATALOGUE[entry]
    loaded = load_model(entry)
    assert loaded.model.gelu_approximate is published.gelu_approximate
    # The file, used directly on images in the range that the catalogue gives.
    model = loaded.model.clone()
    images = golden["images"].clip(-1, 1)
    low, high = published.input_range
    in_range = low + (images + 1) / 2 * (high - low)
    expected = jax.jit(model.apply)({"params": load_params(TINY)}, in_range)
    np.testing.assert_allclose(logits_of(loaded, images), expected, atol=1e-5)


def test_weights_of_images_that_are_not_square_are_refused(tmp_path):
    model = MlpMixer(7, 1, 2, 8, 4, 8)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 4, 6, 3)))["params"]
    save_params(tmp_path / "wide.npz", params)
    with pytest.raises(ValueError, match="square images; got weights for 6 tokens"):
        load_weights(str(tmp_path / "wide.npz"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.npz", "nowhere.npz"),
        ("nowhere", "There are no weights 'nowhere'. Expected a name in the catalogue"),
        ("imagenet1k/Mixer-B16", "Did you mean 'imagenet1k/Mixer-B_16'"),
        (str(GOLDEN), "no complete checkpoint in .*golden"),
        (str(GOLDEN / "mixer_tiny.io.npz"), "mixer_tiny.io.npz"),
    ],
)
def test_what_are_no_weights_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load_model(source)


@pytest.mark.parametrize("size", [0, -16, 24, 8])
def test_a_size_that_is_no_multiple_is_refused(size):
    tiny = load_weights(TINY)
    with pytest.raises(ValueError, match=f"images of 16 pixels .* 16, 32, 48, ...; got {size}"):
        resized_params(tiny, size)


def test_an_unknown_gelu_is_refused():
    with pytest.raises(ValueError, match="Unknown GELU 'tan'.*'tanh'"):
        load_model(TINY, gelu="tan")


def test_params_are_not_changed_by_resizing():
    tiny = load_weights(TINY)
    before = jax.tree.map(np.copy, tiny.params)
    resized_params(tiny, 48)
    jax.tree.map(np.testing.assert_array_equal, tiny.params, before)
