"""The embedded dataset and its split."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from mixer.data.datasets import open_dataset
from mixer.data.digits import Digits


def read_all(split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
    dataset = open_dataset("digits", split, data_dir)
    examples = dataset.parse(tf.constant(dataset.records.read(np.arange(len(dataset.records)))))
    images = [np.asarray(Image.open(io.BytesIO(image))) for image in examples["image"].numpy()]
    return np.stack(images), examples["labels"].numpy()


def test_the_split_is_stratified_and_loses_nothing(data_dir):
    images, labels = zip(*(read_all(split, data_dir) for split in ("train", "test")), strict=True)
    assert [part.shape for part in images] == [(1433, 8, 8), (364, 8, 8)]
    assert [part.shape for part in labels] == [(1433, 1), (364, 1)]
    counts = np.array([np.bincount(part[:, 0], minlength=10) for part in labels])
    np.testing.assert_array_equal(counts[1], np.ceil(counts.sum(axis=0) / 5))

    original, original_labels = load_digits(return_X_y=True)
    written = np.concatenate(images).reshape(1797, 64) / 255 * 16
    expected = sorted(zip(original.round().tolist(), original_labels, strict=True))
    found = sorted(zip(written.round().tolist(), np.concatenate(labels)[:, 0], strict=True))
    assert found == expected


def test_the_first_and_then_every_fifth_image_of_a_class_are_test_images(data_dir):
    original, labels = load_digits(return_X_y=True)
    zeros = np.round(original[labels == 0] * 255 / 16).reshape(-1, 8, 8)
    images, test_labels = read_all("test", data_dir)
    found = {image.tobytes() for image in images[test_labels[:, 0] == 0]}
    assert found == {image.astype(np.uint8).tobytes() for image in zeros[::5]}


def test_processes_that_start_together_may_all_write_it(tmp_path, monkeypatch):
    generate = Digits._split_generators

    def generate_slowly(self, dl_manager):
        monkeypatch.setattr(Digits, "_split_generators", generate)
        open_dataset("digits", "test", str(tmp_path))  # another process begins later, ends first
        return generate(self, dl_manager)

    monkeypatch.setattr(Digits, "_split_generators", generate_slowly)
    assert len(open_dataset("digits", "test", str(tmp_path)).records) == 364
    assert Digits._split_generators is generate, "there was another"
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]
