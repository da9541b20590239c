"""Batches: a function of (seed, step) and rows; evaluation counts every example once."""

import functools
import itertools

import numpy as np
import pytest

from mixer.data import input_pipeline
from mixer.data.datasets import open_dataset
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import make_train_preprocess, whole_image


@pytest.fixture(scope="module")
def batches_from(data_dir):
    """Returns a function (first step, rows) -> the next `count` training batches of 48 rows."""
    dataset = open_dataset("digits", "train", data_dir)
    preprocess = make_train_preprocess(size=8, crop_area=(0.3, 1.0), flip=True)

    def make(first_step: int, rows: np.ndarray, count: int, seed: int = 0, num_stripes: int = 1):
        order = ExampleOrder(len(dataset.records), 48, seed, num_stripes)
        batches = input_pipeline.train_batches(
            dataset, order, preprocess, rows=rows, first_step=first_step, prefetch=2
        )
        return list(itertools.islice(batches, count))

    return make


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys() == {"images", "labels"}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_shapes_and_types(batches_from):
    batch = batches_from(0, np.arange(48), 1)[0]
    assert (batch["images"].shape, batch["images"].dtype) == ((48, 8, 8, 3), np.uint8)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((48, 1), np.int32)


def test_a_batch_is_the_same_whenever_the_run_starts(batches_from):
    rows = np.arange(48)
    stream = batches_from(25, rows, 10)  # over the edge of an epoch at step 29.9
    for step in (25, 29, 30, 34):
        assert_same(batches_from(step, rows, 1)[0], stream[step - 25])
    assert_same(batches_from(10**9, rows, 2)[1], batches_from(10**9 + 1, rows, 1)[0])


@pytest.mark.parametrize("num_stripes", [1, 8])
def test_a_batch_is_the_same_on_any_number_of_hosts(batches_from, num_stripes):
    whole = batches_from(7, np.arange(48), 1, num_stripes=num_stripes)[0]
    for hosts in (2, 4, 8):
        parts = [
            batches_from(7, rows, 1, num_stripes=num_stripes)[0]
            for rows in np.split(np.arange(48), hosts)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
        assert_same(joined, whole)


def test_another_seed_gives_another_batch_and_an_example_is_augmented_anew(batches_from):
    rows = np.arange(48)
    first, other = (batches_from(0, rows, 1, seed)[0] for seed in (0, 1))
    assert not np.array_equal(first["labels"], other["labels"])
    # 1,433 steps are 48 epochs: every example came 48 times, with 48 crops.
    order = ExampleOrder(1433, 48, 0)
    stream = np.concatenate([order.indices(step, rows) for step in range(90)])
    images = np.concatenate([batch["images"] for batch in batches_from(0, rows, 90)])
    mine = images[stream == stream[0]]
    assert len(mine) == 4 or len(mine) == 3
    assert len({image.tobytes() for image in mine}) == len(mine)


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
def test_evaluation_gives_every_example_once_on_any_number_of_hosts(data_dir, hosts):
    dataset = open_dataset("digits", "test", data_dir)
    in_order = [
        int(dataset.parse(record)["labels"][0]) for record in dataset.records.read(np.arange(364))
    ]
    batch_size = 48
    parts = [
        list(
            input_pipeline.evaluation_batches(
                dataset,
                functools.partial(whole_image, size=8),
                batch_size=batch_size,
                rows=rows,
                prefetch=1,
            )
        )
        for rows in np.split(np.arange(batch_size), hosts)
    ]
    assert {len(batches) for batches in parts} == {8}  # 364 = 7 * 48 + 28
    assert {batch["images"].shape[0] for batches in parts for batch in batches} == {48 // hosts}
    labels = np.concatenate(
        [np.concatenate([batches[i]["labels"][:, 0] for batches in parts]) for i in range(8)]
    )
    assert labels.tolist() == in_order + [-1] * 20
