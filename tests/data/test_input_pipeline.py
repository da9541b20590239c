"""Batches: a function of (seed, step) and rows; evaluation counts every example once."""

import itertools
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from cases import slow_after
from children import read_line
from PIL import Image
from sklearn.datasets import load_sample_image

from mixer.data.datasets import cached, open_dataset
from mixer.data.input_pipeline import EvalInput, TrainInput
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import inception_crop, make_eval_preprocess, make_train_preprocess
from mixer.data.records import DamagedExample


@pytest.fixture(scope="module")
def batches_from(data_dir):
    """Returns a function (first step, rows) -> the next `count` training batches of 48 rows."""
    dataset = open_dataset("digits", "train", data_dir)
    preprocess = make_train_preprocess(
        size=8,
        crop=inception_crop(8, area=(0.3, 1.0)),
        flip=True,
        randaugment_layers=0,
        randaugment_magnitude=0.0,
    )

    def make(first_step: int, rows: np.ndarray, count: int, seed: int = 0):
        order = ExampleOrder(len(dataset.records), 48, seed)
        train = TrainInput(dataset, order, preprocess, rows=rows, prefetch=2)
        return list(itertools.islice(train.from_step(first_step), count))

    return make


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys() == {"images", "labels"}
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_shapes_and_types(batches_from):
    batch = batches_from(0, np.arange(48), 1)[0]
    assert (batch["images"].shape, batch["images"].dtype) == ((48, 8, 8, 3), np.uint8)
    assert (batch["labels"].shape, batch["labels"].dtype) == ((48, 1), np.int32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 52 JPEGs in two classes: parts of two photos, of several sizes."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("china", "flower"):
        photo = Image.fromarray(load_sample_image(f"{name}.jpg"))
        (root / "train" / name).mkdir(parents=True)
        for number in range(26):
            part = photo.crop((8 * number, 4 * number, 9 * number + 100, 4 * number + 80))
            part.save(root / "train" / name / f"{number}.jpg", quality=80 + number % 9)
    return f"folder:{root}"


ROWS = np.arange(16)
# The 52 examples are three and a quarter batches: without stripes an epoch ends within batch 3, and
# another with batch 12. Of eight stripes some hold 6 examples, and others 7, two in each batch:
# there epochs end with the batches 2 and 6 and within 3.
EPOCH_EDGES = (2, 3, 6, 7, 12, 13)


@pytest.fixture(scope="module", params=["digits", "photos with RandAugment, in 8 stripes"])
def start(request, data_dir, photos):
    """Returns a function (step, rows) -> the augmented batches of a run from that step onwards."""
    is_photos = request.param != "digits"
    name, split = (photos, "train") if is_photos else ("digits", "train[:52]")
    dataset = open_dataset(name, split, data_dir)
    assert len(dataset.records) == 52
    preprocess = make_train_preprocess(
        size=16,
        crop=inception_crop(16, area=(0.3, 1.0)),
        flip=True,
        randaugment_layers=1 if is_photos else 0,
        randaugment_magnitude=15.0,
    )
    order = ExampleOrder(52, len(ROWS), seed=0, num_stripes=8 if is_photos else 1)

    def start(step: int, rows: np.ndarray):
        return TrainInput(dataset, order, preprocess, rows=rows, prefetch=2).from_step(step)

    return start


@pytest.fixture(scope="module")
def uninterrupted(start):
    """The first 65 batches, 20 epochs, of a run that never stopped."""
    batches = list(itertools.islice(start(0, ROWS), 65))
    assert len({batch["images"].tobytes() for batch in batches}) == 65
    return batches


def test_a_batch_is_the_same_whenever_the_run_starts(start, uninterrupted):
    random_steps = np.random.default_rng(0).choice(65, 2, replace=False).tolist()
    for step in {*random_steps, *EPOCH_EDGES}:
        assert_same(next(start(step, ROWS)), uninterrupted[step])
    assert_same(next(itertools.islice(start(10**9, ROWS), 1, None)), next(start(10**9 + 1, ROWS)))


@pytest.mark.parametrize(
    "hosts", [2, *(pytest.param(hosts, marks=pytest.mark.slow) for hosts in (4, 8))]
)
def test_a_batch_is_the_same_on_any_number_of_hosts(start, uninterrupted, hosts):
    parts = [start(2, rows) for rows in np.split(ROWS, hosts)]
    for step in range(2, 8):
        batch = [next(part) for part in parts]
        joined = {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        assert_same(joined, uninterrupted[step])


def test_another_seed_gives_another_batch_and_a_repeated_example_another_crop(batches_from):
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


def test_one_image_looks_different_in_every_epoch(data_dir):
    dataset = open_dataset("digits", "train", data_dir, fraction=1 / 1433)
    assert len(dataset.records) == 1
    crop = inception_crop(8, area=(0.3, 1.0))
    preprocess = make_train_preprocess(
        size=8, crop=crop, flip=True, randaugment_layers=0, randaugment_magnitude=0.0
    )
    order = ExampleOrder(1, 4, seed=0)
    train = TrainInput(dataset, order, preprocess, rows=np.arange(4), prefetch=2)
    batches = list(itertools.islice(train.from_step(0), 20))
    assert len({batch["images"].tobytes() for batch in batches}) == 20


WHOLE = make_eval_preprocess(size=8, crop="resize_crop", resize=8)


@pytest.mark.parametrize(("hosts", "cache"), [(1, False), (2, False), (3, True), (8, False)])
def test_evaluation_gives_every_example_once_on_any_number_of_hosts(data_dir, hosts, cache):
    dataset = open_dataset("digits", "test", data_dir)
    examples = dataset.parse(tf.constant(dataset.records.read(np.arange(364))))
    in_order = examples["labels"].numpy()[:, 0].tolist()
    batch_size = 48
    inputs = [
        EvalInput(dataset, WHOLE, batch_size=batch_size, rows=rows, prefetch=1, cache=cache)
        for rows in np.split(np.arange(batch_size), hosts)
    ]
    parts = [list(part.one_pass()) for part in inputs]
    assert {len(batches) for batches in parts} == {8}  # 364 = 7 * 48 + 28
    assert {batch["images"].shape[0] for batches in parts for batch in batches} == {48 // hosts}
    labels = np.concatenate(
        [np.concatenate([batches[i]["labels"][:, 0] for batches in parts]) for i in range(8)]
    )
    assert labels.tolist() == in_order + [-1] * 20
    for batch, again in zip(parts[0], inputs[0].one_pass(), strict=True):  # from the cache, if any
        assert_same(batch, again)


def test_a_cached_evaluation_reads_once(data_dir, monkeypatch):
    dataset = open_dataset("digits", "test", data_dir)
    reads = []
    read = dataset.records.read
    monkeypatch.setattr(dataset.records, "read", lambda i: reads.append(i) or read(i))
    for cache, expected in ((True, 4), (False, 8)):
        reads.clear()
        evaluation = EvalInput(
            dataset, WHOLE, batch_size=100, rows=np.arange(100), prefetch=1, cache=cache
        )
        for _ in range(2):
            assert len(list(evaluation.one_pass())) == 4
        assert len(reads) == expected


# Damage -------------------------------------------------------------------------------------------


@pytest.fixture
def damaged_folder(tmp_path):
    """Forty JPEGs of one colour each, 32 x 32, three of them cut short."""
    folder = tmp_path / "images" / "train" / "grey"
    folder.mkdir(parents=True)
    for number in range(40):
        pixels = np.full((32, 32, 3), 6 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")
    for number in (3, 17, 38):
        path = folder / f"{number:02d}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    return open_dataset(f"folder:{tmp_path / 'images'}", "train", "")


def damaged_input(dataset, rows=None):
    preprocess = make_train_preprocess(
        size=8,
        crop=inception_crop(8, area=(1.0, 1.0)),
        flip=False,
        randaugment_layers=0,
        randaugment_magnitude=0.0,
    )
    rows = np.arange(8) if rows is None else rows
    return TrainInput(dataset, ExampleOrder(40, 8, seed=0), preprocess, rows=rows, prefetch=2)


def test_a_damaged_image_ends_the_run_with_its_name(damaged_folder):
    with pytest.raises(DamagedExample, match=r"damaged example \d+ \(.*/(03|17|38)\.jpg\): "):
        list(itertools.islice(damaged_input(damaged_folder).from_step(0), 5))


def test_damaged_images_are_replaced_and_reported_the_same_way_from_any_step(damaged_folder):
    found: dict[int, list[str]] = {}
    train = damaged_input(damaged_folder)
    whole = list(itertools.islice(train.from_step(0, found.__setitem__), 10))
    assert [batch["images"].shape for batch in whole] == [(8, 8, 8, 3)] * 10
    # Ten steps of 8 are two epochs of 40: each damaged image came twice.
    descriptions = [text for step in found for text in found[step]]
    names = sorted(text.partition(".jpg")[0][-2:] for text in descriptions)
    assert names == ["03", "03", "17", "17", "38", "38"]
    # The replacement is the next example of the dataset, unless that one is damaged too.
    for step in (4, 9):
        again: dict[int, list[str]] = {}
        assert_same(next(train.from_step(step, again.__setitem__)), whole[step])
        assert again.get(step) == found.get(step)
    hosts = [damaged_input(damaged_folder, rows) for rows in np.split(np.arange(8), 2)]
    parts = [list(itertools.islice(host.from_step(0, lambda *_: None), 10)) for host in hosts]
    for step in range(10):
        joined = np.concatenate([part[step]["images"] for part in parts])
        np.testing.assert_array_equal(joined, whole[step]["images"])


def test_a_damaged_image_ends_an_evaluation_with_its_name(damaged_folder):
    evaluation = EvalInput(
        damaged_folder, WHOLE, batch_size=8, rows=np.arange(8), prefetch=1, cache=False
    )
    with pytest.raises(DamagedExample, match=r"/(03|17|38)\.jpg"):
        list(evaluation.one_pass())


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("hosts", [1, 2])
def test_an_evaluation_may_leave_damaged_images_out_and_says_so_each_time(
    damaged_folder, cache, hosts
):
    parts = []
    for rows in np.split(np.arange(8), hosts):
        lines: list[str] = []
        evaluation = EvalInput(
            damaged_folder,
            WHOLE,
            batch_size=8,
            rows=rows,
            prefetch=1,
            cache=cache,
            on_damage=lines.append,
        )
        first, second = list(evaluation.one_pass()), list(evaluation.one_pass())
        for batch, again in zip(first, second, strict=True):
            assert_same(batch, again)
        found = [line for line in lines if line.startswith("Left out of the evaluation: damaged")]
        noun = "example is" if len(found) == 1 else "examples are"
        assert lines[len(found) :] == [f"{len(found)} damaged {noun} left out, as before."] * bool(
            found
        )
        parts.append((first, found))
    names = sorted(line.partition(".jpg")[0][-2:] for _, found in parts for line in found)
    assert names == ["03", "17", "38"]
    labels = np.concatenate([batch["labels"] for batches, _ in parts for batch in batches])
    assert (labels >= 0).sum() == 37
    pixels = {
        int(image[0, 0, 0])
        for batches, _ in parts
        for batch in batches
        for image, label in zip(batch["images"], batch["labels"], strict=True)
        if label >= 0
    }
    assert len(pixels) == 37


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("hosts", slow_after(1, [2, 1]))
@pytest.mark.parametrize("batch_size", slow_after(1, [16, 32]))
def test_every_sound_example_counts_once_around_damaged_ones(
    damaged_folder, batch_size, hosts, cache
):
    inputs = [
        EvalInput(
            damaged_folder,
            WHOLE,
            batch_size=batch_size,
            rows=rows,
            prefetch=4,
            cache=cache,
            on_damage=lambda line: None,
        )
        for rows in np.split(np.arange(batch_size), hosts)
    ]
    sound = [6 * number for number in range(40) if number not in (3, 17, 38)]
    next(inputs[0].one_pass())  # a pass that is not read to its end leaves nothing behind
    for _ in range(3):
        passes = [list(part.one_pass()) for part in inputs]
        assert {len(batches) for batches in passes} == {-(-40 // batch_size)}
        counted = [
            int(image[0, 0, 0])
            for batches in passes
            for batch in batches
            for image in batch["images"][batch["labels"][:, 0] >= 0]
        ]
        np.testing.assert_allclose(sorted(counted), sound, atol=1)


@pytest.mark.parametrize("cache", [False, True])
def test_an_evaluation_that_failed_starts_again_from_nothing(damaged_folder, cache, monkeypatch):
    options = {"batch_size": 8, "rows": np.arange(8), "prefetch": 4, "cache": cache}
    evaluation = EvalInput(damaged_folder, WHOLE, **options)
    for _ in range(3):
        with pytest.raises(DamagedExample, match=r"/(03|17|38)\.jpg"):
            list(evaluation.one_pass())
    # A disk that fails for a moment: the next pass has every example, from the cache or not.
    evaluation = EvalInput(damaged_folder, WHOLE, **options, on_damage=lambda line: None)
    read, fails = damaged_folder.records.read, [True]

    def fail_once(indices):
        if 8 in indices and fails:
            raise OSError(5, "Input/output error")
        return read(indices)

    monkeypatch.setattr(damaged_folder.records, "read", fail_once)
    with pytest.raises((OSError, tf.errors.OpError), match="Input/output error"):
        list(evaluation.one_pass())
    fails.clear()
    for _ in range(2):
        batches = list(evaluation.one_pass())
        assert len(batches) == 5
        assert sum((batch["labels"] >= 0).sum() for batch in batches) == 37


def test_damaged_images_in_memory_are_replaced_as_those_on_disk(damaged_folder, capsys):
    (pathlib.Path(damaged_folder.records.locate(0)).parent / "39.jpg").unlink()  # unreadable
    order = ExampleOrder(40, 8, seed=0)
    in_memory = cached(damaged_folder, "raw", order.examples_of(np.arange(8)))
    found: dict[int, list[str]] = {}
    expected: dict[int, list[str]] = {}
    batches = itertools.islice(damaged_input(in_memory).from_step(0, found.__setitem__), 5)
    others = itertools.islice(damaged_input(damaged_folder).from_step(0, expected.__setitem__), 5)
    for batch, other in zip(batches, others, strict=True):
        assert_same(batch, other)
    assert found == expected
    texts = [text for step in found for text in found[step]]
    assert sum("39.jpg cannot be read: No such file" in text for text in texts) == 1
    assert len(texts) == 4


def test_a_dataset_of_damaged_images_is_given_up(tmp_path):
    folder = tmp_path / "train" / "class"
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"{number}.jpg").write_bytes(b"no image")
    dataset = open_dataset(f"folder:{tmp_path}", "train", "")
    with pytest.raises(DamagedExample, match="100 damaged in a row"):
        next(damaged_input(dataset).from_step(0, lambda *_: None))


def test_the_first_batch_at_a_distant_step_comes_as_soon_as_at_the_first(data_dir):
    next(batches_of(open_dataset("digits", "train", data_dir), 0))  # TensorFlow's own start-up

    def least_seconds(*steps: int) -> float:
        seconds = []
        for step in steps:  # another program may take the processor once
            start = time.monotonic()
            next(batches_of(open_dataset("digits", "train", data_dir), step))
            seconds.append(time.monotonic() - start)
        return min(seconds)

    # 0.2 to 0.5 s, as fast as the machine is.
    assert least_seconds(10**9, 10**9 + 7, 10**8) < 2 * least_seconds(0, 1, 2)


def batches_of(dataset, first_step):
    preprocess = make_train_preprocess(
        size=8,
        crop=inception_crop(8, area=(0.5, 1.0)),
        flip=True,
        randaugment_layers=0,
        randaugment_magnitude=0.0,
    )
    order = ExampleOrder(len(dataset.records), 64, seed=0)
    return TrainInput(dataset, order, preprocess, rows=np.arange(64), prefetch=1).from_step(
        first_step
    )


# The end of the process --------------------------------------------------------------------------


LEAVES_ITERATORS = """
import sys, time
import numpy as np
from mixer.data.datasets import cached, open_dataset
from mixer.data.input_pipeline import EvalInput, TrainInput
from mixer.data.order import ExampleOrder
from mixer.data.preprocess import (inception_crop, make_eval_preprocess, make_train_preprocess)

dataset = open_dataset("digits", "train", sys.argv[1])
read = dataset.records.read
dataset.records.read = lambda indices: (time.sleep(0.3), read(indices))[1]  # a read in progress
options = {"rows": np.arange(8), "prefetch": 20}
preprocess = make_train_preprocess(
    size=8, crop=inception_crop(8, area=(0.3, 1.0)), flip=True,
    randaugment_layers=0, randaugment_magnitude=0.0,
)
order = ExampleOrder(len(dataset.records), 8, seed=0)
training = TrainInput(dataset, order, preprocess, **options).from_step(0)
preprocess = make_eval_preprocess(size=8, crop="resize_crop", resize=8)
evaluation = EvalInput(dataset, preprocess, batch_size=8, cache=False, **options).one_pass()
print(next(training)["images"].shape, next(evaluation)["images"].shape)
"""


@pytest.mark.slow
def test_open_iterators_do_not_keep_the_process_from_ending(data_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES_ITERATORS, data_dir],
        cwd=pathlib.Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert read_line(process) == "(8, 8, 8, 3) (8, 8, 8, 3)\n"
        assert process.wait(timeout=15) == 0
    finally:
        process.kill()
        process.communicate(timeout=60)
