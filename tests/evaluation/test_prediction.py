"""Predictions with their probabilities, the picture of them, and files that are no images."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from mixer.evaluation import prediction_picture
from mixer.evaluation.prediction import Prediction, predict
from mixer.evaluation.prediction_picture import draw_predictions

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


@pytest.mark.parametrize(
    "damage",
    [lambda png: b"", lambda png: b"text", lambda png: png[:60], lambda png: png[:-60]],
    ids=["empty", "text", "header only", "cut off"],
)
def test_a_file_that_is_no_image_is_named(tmp_path, colour_model, damage):
    path = tmp_path / "cat.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=f"Expected {path} to be a JPEG or PNG image; got a file that "
    ):
        predict_paths(colour_model(4), [path])


def test_what_cannot_be_predicted_with(tmp_path, colour_model, write_image):
    path = tmp_path / "a.png"
    write_image(path, "red")
    with pytest.raises(ValueError, match="Expected image files; got none"):
        predict_paths(colour_model(4), [])
    with pytest.raises(ValueError, match="Expected weights with a head"):
        predict_paths(colour_model(0), [path])
    with pytest.raises(ValueError, match="Unknown evaluation crop 'centre'"):
        predict_paths(colour_model(4), [path], crop="centre")
    with pytest.raises(FileNotFoundError, match="missing.png"):
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
