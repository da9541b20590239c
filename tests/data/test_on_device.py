"""Data sets that the devices hold: their pixels and labels, their order, and what is refused."""

import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mixer.data.datasets import open_dataset
from mixer.data.on_device import index_batches, read_images
from mixer.data.order import ExampleOrder
from mixer.data.records import DamagedExample


def test_the_images_are_those_of_the_records_in_their_order(data_dir, capsys):
    dataset = open_dataset("digits", "train", data_dir)
    held = read_images(dataset, None)
    assert held["images"].shape == (1433, 8, 8, 3)
    assert held["labels"].shape == (1433, 1)
    assert "Reading 1,433 images" in capsys.readouterr().out
    for index in (0, 1023, 1024, 1432):
        (example,) = dataset.records.read(np.array([index]))
        parsed = dataset.parse(tf.constant([example]))
        image = tf.io.decode_image(parsed["image"][0], channels=3).numpy()
        np.testing.assert_array_equal(held["images"][index], image)
        assert held["labels"][index] == parsed["labels"][0].numpy()


def folder(path, sizes):
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        (path / "train" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path / "train" / "ab"[number % 2] / f"{number}.png")
    return open_dataset(f"folder:{path}", "train", "")


def test_images_of_other_sizes_are_squeezed_or_refused_by_name(tmp_path):
    dataset = folder(tmp_path, [(8, 8), (8, 8), (8, 12)])
    assert read_images(dataset, 6)["images"].shape == (3, 6, 6, 3)
    with pytest.raises(DamagedExample, match=r"2\.png.*have \(8, 8\) pixels, for input='device'"):
        read_images(dataset, None)


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    dataset = folder(tmp_path, [(8, 8)] * 4)
    # The images of the host and a copy for each device.
    needed = (1 + jax.local_device_count()) * 4 * 8 * 8 * 3 / 0.8
    memory = SimpleNamespace(available=needed + 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert read_images(dataset, None)["images"].shape == (4, 8, 8, 3)
    memory.available = needed - 1
    with pytest.raises(ValueError, match="80% of the free memory; .* Use input='host'"):
        read_images(dataset, None)


def test_the_indices_are_those_of_the_order_from_any_step():
    order = ExampleOrder(50, 8, 3)
    rows = np.array([1, 5])
    for batch, step in zip(index_batches(order, rows, 4), range(4, 20), strict=False):
        assert batch["indices"].dtype == np.int32
        np.testing.assert_array_equal(batch["indices"], order.indices(step, rows))
    first = list(itertools.islice(index_batches(order, rows, 0), 8))
    later = next(index_batches(order, rows, 7))
    np.testing.assert_array_equal(first[7]["indices"], later["indices"])
