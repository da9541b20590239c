"""Predictions with their probabilities, the picture of them, and files that are no images."""

import dataclasses
import pathlib

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mixer.evaluation import prediction, prediction_picture
from mixer.evaluation.prediction import Prediction, accuracy_of, predict
from mixer.evaluation.prediction_picture import draw_predictions
from mixer.weights.load import LoadedModel

NAMES = ("red", "green", "blue", "other")


def predict_paths(loaded, paths, **changes):
    return predict(loaded, paths, NAMES, **{"top": 3, "crop": "resmall_crop", **changes})


def test_classes_and_probabilities(tmp_path, colour_model, write_image):
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    write_image(paths[0], "blue")
    write_image(paths[1], "green")
    blue, green = predict_paths(colour_model(4), paths)
    assert (blue.path, blue.classes[0]) == (paths[0], "blue")
    # logits ln 6, 0, 0, 0, but for the rounding of 254.99 to 254 and for JPEG
    assert blue.probabilities == pytest.approx((6 / 9, 1 / 9, 1 / 9), rel=0.003)
    assert green.classes[0] == "green"
    assert green.probabilities[0] == pytest.approx(6 / 9, rel=0.02)
    assert blue.image.shape == (8, 8, 3)
    assert (np.abs(blue.image - np.array([0, 0, 255])) <= 1).all()
    assert len(predict_paths(colour_model(4), paths, top=9)[0].classes) == 4


def test_the_true_class_is_the_name_of_the_folder(tmp_path, colour_model, write_image, monkeypatch):
    wnid, loose = "n01440764", tmp_path / "loose.png"
    loaded = dataclasses.replace(colour_model(4), class_names=("red", "gr\u00fcn", wnid, "other"))
    paths = [tmp_path / "red" / "a.png", tmp_path / "gru\u0308n" / "b.png", loose]
    paths += [tmp_path / "tench" / "c.png", tmp_path / wnid / "d.png", tmp_path / "red" / "e.png"]
    for path, colour in zip(paths, ("red", "green", "red", "blue", "red", "blue"), strict=True):
        write_image(path, colour)
    monkeypatch.chdir(tmp_path / "red")
    found = predict(
        loaded,
        [pathlib.Path("a.png"), *paths[1:]],
        ("red", "gr\u00fcn", "tench", "other"),
        top=2,
        crop="resmall_crop",
    )
    assert [p.true_class for p in found] == ["red", "gr\u00fcn", None, "tench", "tench", "red"]
    assert [p.is_correct for p in found] == [True, True, None, True, False, False]
    assert accuracy_of(found) == "top-1 60.00%, 3 of 5 images"
    assert accuracy_of(found[2:3]) == ""


def test_batches_give_what_single_images_give(tmp_path, colour_model, write_image, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        write_image(path, ("red", "green", "blue")[number % 3])
    monkeypatch.setattr(prediction, "_BATCH_SIZE", 3)
    monkeypatch.setattr(prediction, "MAX_DRAWN", 5)
    together = predict_paths(colour_model(4), paths)
    alone = [predict_paths(colour_model(4), [path])[0] for path in paths]
    assert [p.classes[0] for p in together] == ["red", "green", "blue"] * 2 + ["red"]
    for one, other in zip(together, alone, strict=True):
        assert (one.path, one.classes) == (other.path, other.classes)
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-6)
    assert [p.image is None for p in together] == [False] * 5 + [True] * 2
    np.testing.assert_array_equal(together[4].image, alone[4].image)


def test_logits_that_are_not_finite_name_the_image(tmp_path, write_image):
    class Nothing(nn.Module):
        num_classes: int = 4

        @nn.compact
        def __call__(self, images):
            return jnp.full((len(images), 4), jnp.nan)

    write_image(tmp_path / "a.png", "red")
    with pytest.raises(FloatingPointError, match="finite logits for .*a.png; got NaN or inf"):
        predict_paths(LoadedModel(Nothing(), {}, 8, None), [tmp_path / "a.png"])


@pytest.mark.parametrize(
    "damage",
    [lambda png: b"", lambda png: b"text", lambda png: png[:60], lambda png: png[:-60]],
    ids=["empty", "text", "header only", "cut off"],
)
def test_a_file_that_is_no_image_is_named(tmp_path, colour_model, damage):
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"Expected {path} to be an image; got one that "):
        predict_paths(colour_model(4), [path])


def test_what_cannot_be_predicted_with(tmp_path, colour_model, write_image):
    path = tmp_path / "a.png"
    write_image(path, "red")
    with pytest.raises(ValueError, match="Expected images, paths.*; got none"):
        predict_paths(colour_model(4), [])
    with pytest.raises(ValueError, match="Expected weights with a head"):
        predict_paths(colour_model(0), [path])
    with pytest.raises(ValueError, match="Unknown evaluation crop 'centre'"):
        predict_paths(colour_model(4), [path], crop="centre")
    with pytest.raises(
        ValueError, match="missing.png to be an image; got one that cannot be read: No such"
    ):
        predict_paths(colour_model(4), [path, tmp_path / "missing.png"])


def make_predictions(count: int) -> list[Prediction]:
    image = np.full((8, 8, 3), (0, 255, 0), np.uint8)
    path = pathlib.Path("costs $5$ and \\frac.png")  # no formulas in names
    return [Prediction(path, image, ("green", "x" * 200), (0.75, 0.25))] * count


def test_the_picture_shows_images_and_bars(tmp_path):
    output = tmp_path / "predictions.png"
    draw_predictions(make_predictions(3), output)
    with Image.open(output) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    is_green = (pixels == (0, 255, 0)).all(axis=-1)
    height, width = is_green.shape
    quarters = is_green[: height // 2 * 2].reshape(2, height // 2, 2, width // 2)
    areas = quarters.sum(axis=(1, 3)).ravel().tolist()
    assert min(areas[:3]) > 30_000
    assert areas[3] == 0
    is_bar = (pixels == (0x8F, 0xBC, 0xDB)).all(axis=-1)
    assert is_bar.any(axis=0).sum() / width == pytest.approx(2 * 0.75 * 0.24, rel=0.05)
    assert list(tmp_path.iterdir()) == [output]


def test_the_picture_shows_true_classes_and_the_accuracy(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, text, **_: titles.append(text))
    monkeypatch.setattr(Axes, "set_title", lambda self, text, **_: titles.append(text))
    (first,) = make_predictions(1)
    right = dataclasses.replace(first, true_class="green")
    wrong = dataclasses.replace(first, true_class="$red$ \n", path=pathlib.Path("a\udcff.png"))
    draw_predictions([right, wrong, first], tmp_path / "p.png")
    assert titles == [
        "costs $5$ and \\frac.png\ntrue: green",
        "a\\udcff.png\ntrue: $red$ \\n",
        "costs $5$ and \\frac.png",
        "top-1 50.00%, 1 of 2 images",
    ]
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for colour in ((0x8F, 0xBC, 0xDB), (0xE8, 0xA5, 0x98)):  # right or unknown, wrong
        assert (pixels == colour).all(axis=-1).sum() > 5_000


def test_of_many_images_the_first_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_picture, "MAX_DRAWN", 4)
    draw_predictions(make_predictions(30), tmp_path / "many.png")
    with Image.open(tmp_path / "many.png") as picture:
        assert picture.size == (2 * 5.6 * 120, 2 * 2.3 * 120)


def test_an_existing_picture_is_replaced_only_by_a_finished_one(tmp_path, monkeypatch):
    output = tmp_path / "predictions.png"
    output.write_bytes(b"old")

    def write_some(path, data):
        path.write_text("some")
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_some)
    with pytest.raises(OSError, match="No space left"):
        draw_predictions(make_predictions(1), output)
    assert output.read_bytes() == b"old"
