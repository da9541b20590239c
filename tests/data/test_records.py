"""Random access to records in every kind of file, checksums, indices, folders of images."""

import io
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from mixer.data import tfrecords
from mixer.data.datasets import open_dataset
from mixer.data.folder_records import FolderRecords
from mixer.data.records import DamagedExample, Files
from mixer.data.tfrecords import TFRecords


def test_records_come_back_in_the_requested_order(data_dir):
    records = open_dataset("digits", "train", data_dir).records
    in_order = records.read(np.arange(100))
    shuffled = np.random.default_rng(0).permutation(100)
    assert list(records.read(shuffled)) == [in_order[index] for index in shuffled]


def test_slices_of_a_split_are_the_same_records(data_dir):
    def open_split(split):
        return open_dataset("digits", split, data_dir).records

    train, head, tail = map(open_split, ("train", "train[:90%]", "train[90%:]"))
    assert len(head) + len(tail) == len(train) == 1433
    everything = list(head.read(np.arange(len(head)))) + list(tail.read(np.arange(len(tail))))
    assert everything == list(train.read(np.arange(1433)))
    assert tail.locate(0) == train.locate(len(head))
    assert "record 1290 of " in tail.locate(0)


def test_fingerprints_tell_splits_apart_and_are_stable(data_dir):
    prints = [
        open_dataset("digits", split, data_dir).records.fingerprint()
        for split in ("train", "train", "test", "train[:90%]")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("trian", "Unknown split 'trian'.*train, test"),
        ("train[:50", r"Unknown split 'train\[:50'"),
        ("train[:0]", "at least one example in .*; got none"),
    ],
)
def test_splits_that_do_not_exist_are_refused(data_dir, split, message):
    with pytest.raises(ValueError, match=message):
        open_dataset("digits", split, data_dir)


# TFRecord files -----------------------------------------------------------------------------------


@pytest.fixture
def tfrecord_files(tmp_path) -> Files:
    """Three files of 5 records between 0 and 400 bytes, of which a slice takes 3, 5 and 2."""
    return write_tfrecords(str(tmp_path))


def record(file: int, position: int) -> bytes:
    return bytes([file, position]) * (position * 50)


def write_tfrecords(folder: str) -> Files:
    instructions = []
    for file, (skip, take) in enumerate([(2, 3), (0, 5), (0, 2)]):
        path = f"{folder}/data.tfrecord-{file:05d}-of-00003"
        with tf.io.TFRecordWriter(path) as writer:
            for position in range(5):
                writer.write(record(file, position))
        instruction = tfds.core.utils.shard_utils.FileInstruction(path, skip, take, 5)
        instructions.append(instruction)
    return Files(instructions)


EXPECTED = [record(0, p) for p in (2, 3, 4)] + [record(1, p) for p in range(5)]
EXPECTED += [record(2, p) for p in (0, 1)]


def test_tfrecords_are_read_in_any_order(tfrecord_files, tmp_path):
    records = TFRecords(tfrecord_files, tmp_path / "cache")
    assert len(records) == 10
    order = np.random.default_rng(0).permutation(10)
    assert list(records.read(order)) == [EXPECTED[index] for index in order]
    assert records.locate(3) == f"record 0 of {tfrecord_files.paths[1]}"


def test_remote_tfrecords_go_through_tensorflows_file_layer(tmp_path):
    # TensorFlow's in-memory file system: a path with a scheme, as gs:// is.
    tf.io.gfile.makedirs("ram://bucket")
    records = TFRecords(write_tfrecords("ram://bucket"), tmp_path / "cache")
    assert list(records.read(np.arange(10))) == EXPECTED
    assert tf.io.gfile.glob("ram://bucket/.record_index-*.npz")
    assert records.num_bytes() == TFRecords(write_tfrecords(str(tmp_path))).num_bytes()


def test_the_index_is_made_once_per_state_of_the_files(tfrecord_files, tmp_path, monkeypatch):
    TFRecords(tfrecord_files, tmp_path / "cache")
    (index,) = tmp_path.glob(".record_index-*.npz")
    scans = []
    scan = tfrecords._scan
    monkeypatch.setattr(tfrecords, "_scan", lambda *args: scans.append(args) or scan(*args))
    TFRecords(Files(tfrecord_files.instructions), tmp_path / "cache")
    assert not scans
    with open(tfrecord_files.paths[0], "ab") as file:
        file.write(pathlib.Path(tfrecord_files.paths[0]).read_bytes()[:16])  # an empty record
    with pytest.raises(DamagedExample, match="Expected 5 records in .*00000-of-00003.* found 6"):
        TFRecords(Files(tfrecord_files.instructions), tmp_path / "cache")
    restored = write_tfrecords(str(tmp_path))
    sizes = restored.sizes()
    bomb, lie = io.BytesIO(), io.BytesIO()
    np.savez_compressed(bomb, lengths=np.zeros(2**20), counts=[4, 3, 3], sizes=sizes)
    np.savez(lie, lengths=np.full(10, 2**40), counts=[4, 3, 3], sizes=sizes)
    for content in (b"not an index", bomb.getvalue(), lie.getvalue()):
        index.write_bytes(content)
        scans.clear()
        assert list(TFRecords(restored, tmp_path / "cache").read(np.arange(10))) == EXPECTED
        assert len(scans) == 3


def test_the_index_goes_to_the_cache_where_the_data_cannot_be_written(
    tfrecord_files, tmp_path, monkeypatch
):
    save = tfrecords._save_index

    def refuse_beside_the_data(path, *args):
        if "cache" not in path:
            raise PermissionError(path)
        save(path, *args)

    monkeypatch.setattr(tfrecords, "_save_index", refuse_beside_the_data)
    TFRecords(tfrecord_files, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("record_index-*.npz"))
    monkeypatch.setattr(tfrecords, "_scan", None)  # not needed a second time
    assert list(TFRecords(tfrecord_files, tmp_path / "cache").read(np.arange(10))) == EXPECTED


def test_every_flipped_bit_of_a_tfrecord_is_noticed(tfrecord_files, tmp_path):
    TFRecords(tfrecord_files, tmp_path / "cache")  # the index predates the damage
    path = pathlib.Path(tfrecord_files.paths[1])
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    start = 16 + 12  # after the empty record and the header of the next
    for _ in range(40):
        damaged = bytearray(sound)
        damaged[rng.integers(start, start + 100)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        records = TFRecords(Files(tfrecord_files.instructions), tmp_path / "cache")
        with pytest.raises(DamagedExample, match=r"checksum of record 1 of .*00001-of-00003"):
            records.read(np.array([4]))
        assert records.read(np.array([3, 5])) == [EXPECTED[3], EXPECTED[5]]


def test_a_thousand_shards_open_fast_once_indexed(tmp_path):
    import time

    instructions = []
    for file in range(1000):
        path = f"{tmp_path}/data.tfrecord-{file:05d}-of-01000"
        with tf.io.TFRecordWriter(path) as writer:
            writer.write(b"example")
        instructions.append(tfds.core.utils.shard_utils.FileInstruction(path, 0, 1, 1))
    TFRecords(Files(instructions), tmp_path / "cache")
    start = time.monotonic()
    records = TFRecords(Files(instructions), tmp_path / "cache")
    assert records.read(np.array([0, 999])) == [b"example"] * 2
    assert time.monotonic() - start < 2


# Folders of images --------------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path) -> pathlib.Path:
    """Two classes with 30 and 20 training images, and 2 test images."""
    for split, class_name, count in [
        ("train", "cat", 30),
        ("train", "dog", 20),
        ("test", "dog", 2),
    ]:
        folder = tmp_path / "pets" / split / class_name
        folder.mkdir(parents=True)
        for number in range(count):
            suffix = ("jpg", "png", "JPEG")[number % 3]
            pixels = np.full((6, 7, 3), 8 * number, np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
        (folder / "notes.txt").write_text("not an image")
    return tmp_path / "pets"


def test_a_folder_is_a_dataset(image_folder):
    dataset = open_dataset(f"folder:{image_folder}", "train", "")
    assert (dataset.num_classes, len(dataset.records)) == (2, 50)
    examples = dataset.parse(tf.constant(dataset.records.read(np.arange(50))))
    labels = examples["labels"].numpy()
    assert labels.shape == (50, 1)
    assert np.bincount(labels[:, 0]).tolist() == [30, 20]
    for index in range(50):
        path = pathlib.Path(dataset.records.locate(index))
        assert path.read_bytes() == examples["image"][index].numpy()
        assert path.parent.name == ("cat", "dog")[labels[index, 0]]
    # The classes are mixed: as many changes between neighbours as chance gives, 24 on average.
    assert 12 < np.sum(np.diff(labels[:, 0]) != 0) < 36


def test_the_test_split_has_the_labels_of_the_training_split(image_folder):
    dataset = open_dataset(f"folder:{image_folder}", "test", "")
    labels = dataset.parse(tf.constant(dataset.records.read(np.arange(2))))["labels"]
    assert labels.numpy().tolist() == [[1], [1]]


def test_slices_of_a_folder(image_folder):
    parts = [FolderRecords(image_folder, f"train{part}") for part in ("", "[:40%]", "[40%:]")]
    assert [len(part) for part in parts] == [50, 20, 30]
    paths = [[part.locate(index) for index in range(len(part))] for part in parts]
    assert paths[0] == paths[1] + paths[2]
    assert len({part.fingerprint() for part in parts}) == 3


def test_bad_folders_are_refused(image_folder):
    with pytest.raises(ValueError, match="trial"):
        FolderRecords(image_folder, "trial")
    (image_folder / "test" / "dig").mkdir()
    shutil.copy(image_folder / "test/dog/0.jpg", image_folder / "test/dig/0.jpg")
    with pytest.raises(
        ValueError, match="Expected only the classes of train, cat, dog, .*got 'dig' in .*test/dig"
    ):
        FolderRecords(image_folder, "test")
    shutil.rmtree(image_folder / "test")
    (image_folder / "test" / "dog").mkdir(parents=True)
    with pytest.raises(
        ValueError, match="Expected classes in .*test; it holds none that has an image"
    ):
        FolderRecords(image_folder, "test")
