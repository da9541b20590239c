"""Random access to records, splits, fingerprints, errors."""

import numpy as np
import pytest

from mixer.data.datasets import open_dataset


def test_records_come_back_in_the_order_asked_for(data_dir):
    records = open_dataset("digits", "train", data_dir).records
    in_order = records.read(np.arange(100))
    shuffled = np.random.default_rng(0).permutation(100)
    assert list(records.read(shuffled)) == [in_order[index] for index in shuffled]


def test_slices_of_a_split_are_the_same_records(data_dir):
    train = open_dataset("digits", "train", data_dir).records
    head, tail = (
        open_dataset("digits", s, data_dir).records for s in ("train[:90%]", "train[90%:]")
    )
    assert len(head) + len(tail) == len(train) == 1433
    everything = list(head.read(np.arange(len(head)))) + list(tail.read(np.arange(len(tail))))
    assert everything == list(train.read(np.arange(1433)))


def test_fingerprints_tell_splits_apart_and_are_stable(data_dir):
    prints = [
        open_dataset("digits", split, data_dir).records.fingerprint()
        for split in ("train", "train", "test", "train[:90%]")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("digit", "train", "Unknown dataset 'digit'.*Did you mean 'digits'"),
        ("digits", "trian", "Unknown split 'trian'.*train, test"),
        ("digits", "train[:50", r"Unknown split 'train\[:50'"),
        ("digits", "train[:0]", "holds no example"),
    ],
)
def test_data_that_does_not_exist_is_refused(data_dir, name, split, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(name, split, data_dir)
