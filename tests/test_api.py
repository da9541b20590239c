"""`mixer.load`: what people use in Python, in three lines, with any image at hand."""

import pathlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import mixer
from mixer.evaluation.prediction import predict
from mixer.weights import load_params, save_params
from mixer.weights.load import load_model

GOLDEN = pathlib.Path(__file__).parent / "golden"
TINY = GOLDEN / "mixer_tiny.npz"
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 24, 3), np.uint8)


@pytest.fixture(scope="module")
def tiny():
    return mixer.load(TINY, gelu="tanh")  # which an .npz does not record


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_what_a_loaded_model_has(tiny):
    assert mixer.__version__.count(".") == 2
    io = np.load(GOLDEN / "mixer_tiny.io.npz")
    logits = tiny.model.apply({"params": tiny.params}, io["images"])
    np.testing.assert_allclose(logits, io["logits"], rtol=1e-4, atol=1e-5)
    assert (tiny.image_size, len(tiny.class_names), tiny.class_names[1]) == (16, 7, "class 1")


def test_the_numbers_are_those_of_the_script(tiny, png):
    (found,) = tiny.predict([png], top=3)
    (other,) = predict(load_model(str(TINY)), [png], tiny.class_names, top=3)
    assert (found.path, found.classes) == (png, other.classes)
    assert found.probabilities == other.probabilities
    assert np.sort(tiny.probabilities(png)[0])[::-1][:3].tolist() == list(found.probabilities)


def test_a_file_a_pil_image_and_its_pixels_are_one(tiny, png):
    ways = [str(png), png, Image.open(png), PIXELS]
    together = tiny.predict(ways)
    assert [p.path for p in together] == [png, png, *map(pathlib.Path, ("image 2", "image 3"))]
    for found in together[1:]:
        assert found.probabilities == together[0].probabilities
        np.testing.assert_array_equal(found.image, together[0].image)
    one = tiny.probabilities(PIXELS)
    assert one.shape == (1, 7)
    np.testing.assert_array_equal(tiny.probabilities(PIXELS[None]), one)
    np.testing.assert_array_equal(tiny.probabilities([PIXELS]), one)
    np.testing.assert_array_equal(tiny.probabilities(Image.open(png)), one)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pil_modes_are_read_as_their_files_are(tiny, tmp_path, mode):
    image = Image.fromarray(PIXELS).convert("I" if mode == "I;16" else mode)
    if mode == "I;16":
        with pytest.raises(ValueError, match="8 bits per channel; image 0 has the mode I. Scale"):
            tiny.predict(image)
        return
    image.save(tmp_path / "a.png")
    file, memory = tiny.preprocess([tmp_path / "a.png", image])
    np.testing.assert_array_equal(file, memory)


def test_jpeg_decoders_differ_by_few_grey_levels(tiny, tmp_path):
    Image.fromarray(np.repeat(PIXELS[:8, :6], 8, 0).repeat(8, 1)).save(tmp_path / "a.jpg")
    file, memory = tiny.preprocess([tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg")])
    assert np.abs(file - memory).max() <= 3 / 127.5


def test_preprocess_gives_what_the_model_takes(tiny, png):
    images = tiny.preprocess([png, PIXELS])
    assert (images.dtype, images.shape) == (np.float32, (2, 16, 16, 3))
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1
    logits = np.asarray(tiny.model.apply({"params": tiny.params}, images))
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    expected = odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(tiny.probabilities([png, PIXELS]), expected, rtol=1e-5)


def test_features_are_the_input_of_the_head(tiny, png):
    features = tiny.features([png] * 20)  # more than a batch
    head = tiny.params["head"]
    logits = features @ head["kernel"] + head["bias"]
    assert features.shape == (20, head["kernel"].shape[0])
    odds = np.exp(logits)
    expected = odds / odds.sum(-1, keepdims=True)
    np.testing.assert_allclose(tiny.probabilities([png] * 20), expected, rtol=1e-4)


def test_without_a_head_there_are_features_alone(tiny, tmp_path, png):
    params = {name: value for name, value in load_params(TINY).items() if name != "head"}
    save_params(tmp_path / "headless.npz", params)
    headless = mixer.load(tmp_path / "headless.npz", gelu="tanh")
    assert headless.class_names == ()
    np.testing.assert_allclose(headless.features(png), tiny.features(png), rtol=1e-5)
    for method in (headless.predict, headless.probabilities):
        with pytest.raises(ValueError, match="Expected weights with a head; got no head"):
            method(png)


def test_options_are_those_of_the_script(tmp_path, png):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\nf\ng\n")
    loaded = mixer.load(
        f"{TINY}",
        image_size=32,
        gelu="exact",
        class_names=f"{names}",
        crop="resize_crop",
        eval_resize=32,
    )
    assert (loaded.image_size, loaded.class_names) == (32, tuple("abcdefg"))
    squeezed = loaded.preprocess(np.dstack([np.arange(60, dtype=np.uint8)[None].repeat(30, 0)] * 3))
    assert squeezed.shape == (1, 32, 32, 3)
    assert squeezed[0, 0, -1, 0] > 55 / 127.5 - 1  # nothing is cut off
    assert loaded.model.gelu_approximate is False


def test_what_is_assumed_is_a_warning(tmp_path):
    shutil.copy(GOLDEN / "timm_mixer_tiny.safetensors", tmp_path / "t.safetensors")
    with pytest.warns(UserWarning, match="does not record the type of GELU") as caught:
        mixer.load(tmp_path / "t.safetensors")
    assert caught[0].filename == __file__
    mixer.load(tmp_path / "t.safetensors", gelu="exact")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "Expected images, paths, PIL images or uint8 arrays .*; got none"),
        (7, "Expected images, paths.*; got int"),
        ([7], "image 0 is of type int"),
        ([PIXELS, [[0, 1], [2, 3]]], "image 1 is of type list"),
        (PIXELS / 255.0, r"type uint8, 0 to 255; image 0 is float64 from 0 to 1\. Of values from"),
        ([PIXELS, PIXELS * 1.5], "image 1 is float64 from 0 to 382.5"),
        (PIXELS.astype(np.int64), "image 0 is int64 from 0 to 255"),
        (PIXELS[..., 0], r"channels last; image 0 has the shape \[30, 24\]"),
        (PIXELS.transpose(2, 0, 1), r"channels last; image 0 has the shape \[3, 30, 24\]"),
        (np.uint8(3), r"the shape \[\]"),
        (PIXELS[:0], "Expected 1 to 100,000,000 pixels; image 0 has 0 x 24"),
        ("missing.png", "Expected missing.png to be an image; got one that cannot be read: No"),
        (".", "Expected . to be an image; got one that is a folder"),
        (TINY, "to be an image; got one that is no JPEG, PNG"),
    ],
)
def test_what_is_no_image(tiny, images, message):
    for method in (tiny.predict, tiny.probabilities, tiny.features, tiny.preprocess):
        with pytest.raises(ValueError, match=message):
            method(images)


def test_other_mistakes(tiny, tmp_path, png):
    png.write_bytes(png.read_bytes()[:-60])
    with pytest.raises(ValueError, match="a.png to be an image; got one that is a PNG that"):
        tiny.predict(png)
    with Image.open(png) as image, pytest.raises(ValueError, match="image 0 to be an intact PIL"):
        tiny.predict(image)
    with pytest.raises(ValueError, match="Expected top to be at least 1; got 0"):
        tiny.predict(PIXELS, top=0)
    with pytest.raises(ValueError, match="Unknown evaluation crop 'centre'"):
        mixer.load(TINY, gelu="tanh", crop="centre").predict(PIXELS)
    with pytest.raises(ValueError, match="There are no weights 'imagenet1k/Mixer-B16'.*Did you"):
        mixer.load("imagenet1k/Mixer-B16")


def test_the_page_runs_as_it_stands(tiny, tmp_path, monkeypatch):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "python.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", page, re.DOTALL)
    write_vit, run = blocks.pop(), "".join(blocks)
    Image.fromarray(PIXELS).save(tmp_path / "cat.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "dog.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mixer, "load", lambda source: tiny)  # nothing is downloaded
    names: dict = {}
    exec(run, names)
    assert [len(prediction.classes) for prediction in names["both"]] == [3, 3]
    assert names["logits"].shape == (2, 7)
    np.testing.assert_allclose(names["features"], tiny.features("cat.jpg"), rtol=0.1, atol=0.1)
    vit = f'"{GOLDEN / "vit_tiny.npz"}"'
    exec(write_vit.replace('"imagenet1k/Mixer-B_16")', f"{vit})"), names)
    assert names["said"] == ""
    assert (tmp_path / "hub" / "model.safetensors").is_file()
