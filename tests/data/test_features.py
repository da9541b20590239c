"""Datasets in TFDS's format made by others: what they have is used, or refused by name."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mixer.data.datasets import open_dataset
from mixer.data.input_pipeline import EvalInput
from mixer.data.preprocess import make_eval_preprocess
from mixer.data.records import DamagedExample

IMAGE = tfds.features.Image(shape=(4, 4, 3))
CLASS = tfds.features.ClassLabel(names=["ant", "bee", "cow"])
OPTIONS = {"batch_size": 3, "rows": np.arange(3), "prefetch": 1, "cache": False}
PREPROCESS = make_eval_preprocess(size=4, crop="resize_crop", resize=4)


def store(folder: pathlib.Path, features: dict, values: dict[str, list], split: str = "train"):
    """Writes a dataset `theirs` of as many examples as there are values."""
    count = len(list(values.values())[-1])
    images = {key: np.zeros((count, 4, 4, 3), np.uint8) for key in features if key not in values}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="theirs",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: tf.data.Dataset.from_tensor_slices({**images, **values})},
        data_dir=str(folder),
        file_format="array_record",
    )


def read_labels(folder: pathlib.Path, **options: str) -> list[int]:
    dataset = open_dataset("theirs", "train", str(folder), **options)
    examples = dataset.records.read(np.arange(len(dataset.records)))
    return sorted(dataset.parse(tf.constant(examples))["labels"].numpy()[:, 0].tolist())


def test_a_label_and_an_image_of_other_names(tmp_path):
    store(tmp_path, {"photo": IMAGE, "species": CLASS}, {"species": [2, 0, 1]})
    with pytest.raises(
        ValueError, match=r"photo \(Image uint8\), species \(ClassLabel of 3\)"
    ) as e:
        open_dataset("theirs", "train", str(tmp_path))
    assert "Use another: --config.label_key=species (--label_key of evaluate.py)." in str(e.value)
    assert read_labels(tmp_path, label_key="species") == [0, 1, 2]
    dataset = open_dataset("theirs", "train", str(tmp_path), label_key="species")
    assert (dataset.num_classes, dataset.class_names) == (3, ("ant", "bee", "cow"))


def test_two_labels(tmp_path):
    fine = tfds.features.ClassLabel(num_classes=5)
    values = {"label": [2, 0, 1], "fine": [4, 4, 3]}
    store(tmp_path, {"image": IMAGE, "label": CLASS, "fine": fine}, values)
    assert read_labels(tmp_path) == [0, 1, 2]
    assert read_labels(tmp_path, label_key="fine") == [3, 4, 4]
    with pytest.raises(ValueError, match="Expected 'other' in .* to be a class"):
        open_dataset("theirs", "train", str(tmp_path), label_key="other")


@pytest.mark.parametrize(
    ("label", "values", "described"),
    [
        (tfds.features.Scalar(np.int64), [1, 2], r"label \(Scalar int64\)"),
        (tfds.features.Text(), ["ant", "bee"], r"label \(Text object\)"),
        (
            tfds.features.Tensor(shape=(2,), dtype=np.float32),
            np.zeros((2, 2), np.float32),
            "Tensor float32",
        ),
        (tfds.features.Sequence(CLASS), [[0], [1]], "Sequence int64"),
    ],
)
def test_labels_that_are_no_class_are_refused_by_name(tmp_path, label, values, described):
    store(tmp_path, {"image": IMAGE, "label": label}, {"label": values})
    with pytest.raises(ValueError, match=f"'label' in .* to be a class .*{described}.*Write it"):
        open_dataset("theirs", "train", str(tmp_path))


def test_nested_features_are_described(tmp_path):
    boxes = tfds.features.Sequence({"size": CLASS, "depth": np.float32})
    values = {"objects": {"size": [[0], [1]], "depth": [[1.0], [2.0]]}, "kind": [0, 1]}
    store(tmp_path, {"image": IMAGE, "objects": boxes, "kind": CLASS}, values)
    with pytest.raises(ValueError, match=r"image \(Image uint8\), kind .*objects \(Sequence\)"):
        open_dataset("theirs", "train", str(tmp_path))
    assert read_labels(tmp_path, label_key="kind") == [0, 1]


def test_images_of_floats_are_refused(tmp_path):
    image = tfds.features.Image(shape=(4, 4, 1), dtype=np.float32)
    values = {"image": np.zeros((2, 4, 4, 1), np.float32), "label": [0, 1]}
    store(tmp_path, {"image": image, "label": CLASS}, values)
    with pytest.raises(ValueError, match=r"8 or 16 bits; got: image \(Image float32\)"):
        open_dataset("theirs", "train", str(tmp_path))


def test_an_image_without_a_label_is_an_error_that_names_it(tmp_path):
    store(tmp_path, {"image": IMAGE, "label": CLASS}, {"label": [1, -1, 2]})
    dataset = open_dataset("theirs", "train", str(tmp_path))
    with pytest.raises(DamagedExample, match=r"array_record.*Expected labels from 0 to 2 \(-1 is"):
        list(EvalInput(dataset, PREPROCESS, **OPTIONS).one_pass())
    lines: list[str] = []
    (batch,) = EvalInput(dataset, PREPROCESS, on_damage=lines.append, **OPTIONS).one_pass()
    assert sorted(batch["labels"][:, 0].tolist()) == [-1, 1, 2]
    assert len(lines) == 1


def test_a_missing_and_a_damaged_file_are_named(tmp_path):
    store(tmp_path, {"image": IMAGE, "label": CLASS}, {"label": [0, 1]})
    (path,) = tmp_path.glob("theirs/1.0.0/*.array_record*")
    path.write_bytes(path.read_bytes()[:100])
    dataset = open_dataset("theirs", "train", str(tmp_path))
    with pytest.raises(DamagedExample, match="0 of .*00000-of-00001.: .*should be at least 64KB"):
        list(EvalInput(dataset, PREPROCESS, **OPTIONS).one_pass())
    path.unlink()
    with pytest.raises(ValueError, match="1 are not there, the first of them .*00000-of-00001"):
        open_dataset("theirs", "train", str(tmp_path))


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    store(tmp_path / "sets", {"image": IMAGE, "label": CLASS}, {"label": [0, 1]}, split="val")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_dataset("theirs", "test", "~/sets").records) == 2  # the split val
    monkeypatch.setenv("TFDS_DATA_DIR", "~/sets")
    assert len(open_dataset("theirs", "val", "").records) == 2


def test_images_of_16_bits_have_the_right_grey(tmp_path):
    deep = tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)
    values = {"image": np.full((1, 4, 4, 1), 200 * 257, np.uint16), "label": [0]}
    store(tmp_path, {"image": deep, "label": CLASS}, values)
    dataset = open_dataset("theirs", "train", str(tmp_path))
    (encoded,) = dataset.parse(tf.constant(dataset.records.read(np.arange(1))))["image"]
    assert (PREPROCESS(encoded).numpy() == 200).all()
