"""The numbers of examples, without the data: TFDS's own arithmetic."""

import itertools

import pytest
import tensorflow_datasets as tfds

from mixer.data.datasets import open_dataset
from mixer.data.table import DATASETS, num_examples


@pytest.fixture(scope="module")
def tfds_splits():
    """TFDS's view of the splits of ImageNet, in eleven files each, none of which exists."""
    splits = []
    for name, size in DATASETS["imagenet2012"].splits.items():
        edges = [size * file // 11 for file in range(12)]
        template = tfds.core.ShardedFileTemplate(
            data_dir="/nowhere", dataset_name="imagenet2012", split=name, filetype_suffix="tfrecord"
        )
        lengths = [end - begin for begin, end in itertools.pairwise(edges)]
        splits.append(tfds.core.SplitInfo(name, lengths, 0, template))
    return tfds.core.splits.SplitDict(splits)


@pytest.mark.parametrize(
    ("split", "size"),
    [
        ("train", 1_281_167),
        ("train[:99%]", 1_268_355),
        ("train[99%:]", 12_812),
        ("train[10:20%]", 128_116),
        ("train[12.5%:37.5%]", 320_292),
        ("train[-5%:]", 64_058),
        ("train[:-5%]", 1_217_109),
        ("train[-1000:]", 1000),
        ("train[51200:]", 1_229_967),
        ("train[:51200]", 51_200),
        ("train[-1281167:5]", 5),
        ("validation[:1]", 1),
        ("train[99%:]+validation", 62_812),
    ],
)
def test_slices_are_rounded_as_tfds_does(split, size, tfds_splits):
    assert tfds_splits[split].num_examples == size
    assert num_examples("imagenet2012", split) == size
    assert num_examples("imagenet2012:5.1.0", split) == size


@pytest.mark.parametrize("size", [7, 50, 150, 1433, 3669])
def test_every_percentage_is_rounded_as_tfds_does(size, monkeypatch):
    monkeypatch.setitem(DATASETS["digits"].splits, "train", size)
    template = tfds.core.ShardedFileTemplate(
        data_dir="/nowhere", dataset_name="digits", split="train", filetype_suffix="tfrecord"
    )
    splits = tfds.core.splits.SplitDict([tfds.core.SplitInfo("train", [size], 0, template)])
    for percent in range(-99, 100):
        for split in (f"train[:{percent}%]", f"train[{percent}%:]"):
            if expected := splits[split].num_examples:
                assert num_examples("digits", split) == expected


@pytest.mark.parametrize("split", ["train", "test", "train[:37%]", "train[-5:]", "train+test"])
@pytest.mark.parametrize("fraction", [1.0, 0.3, 0.0001])
def test_the_count_equals_that_of_the_dataset_on_disk(split, fraction, data_dir):
    records = open_dataset("digits", split, data_dir, fraction=fraction).records
    assert num_examples("digits", split, fraction) == len(records)


def test_the_subsets_of_figure_2():
    sizes = [num_examples("jft300m", "train", fraction) for fraction in (0.03, 0.1, 0.3)]
    assert sizes == [9_000_000, 30_000_000, 90_000_000]


@pytest.mark.parametrize(
    ("name", "split", "fraction", "message"),
    [
        ("imagenet2021", "train", 1.0, "Unknown dataset 'imagenet2021'.*mean 'imagenet2012'"),
        ("folder:~/mine", "train", 1.0, "Only the folder itself tells"),
        (
            "cifar10",
            "validation",
            1.0,
            "Unknown split of cifar10 'validation'.*one of: test, train",
        ),
        ("cifar10", "train[:50001]", 1.0, r"slice of the 50,000 examples; got 'train\[:50001\]'"),
        ("cifar10", "train[5:5]", 1.0, "at least one example in .*; got none"),
        ("cifar10", "train[:]", 1.0, r"Expected splits such as .*; got 'train\[:\]'"),
        ("cifar10", "train[1.5:]", 1.0, r"Expected splits such as .*; got 'train\[1.5:\]'"),
        ("cifar10", "train[2shard:]", 1.0, "Expected splits such as"),
        (
            "cifar10",
            "train[10%:]+train[:20%]",
            1.0,
            r"each example once in 'train\[10%:\]\+train\[:20%\]' of cifar10; .* share 5,000,",
        ),
        ("cifar10", "train", 0.0, r"fraction of the data in \(0, 1\]; got 0"),
    ],
)
def test_what_cannot_be_counted_is_refused(name, split, fraction, message):
    with pytest.raises(ValueError, match=message):
        num_examples(name, split, fraction)
