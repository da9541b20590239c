"""Datasets made of images on disk: bytes, labels, counts, refusals, interruptions, the script."""

import contextlib
import errno
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator

import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_sample_image

from mixer.data import prepare
from mixer.data.class_list import read_class_list
from mixer.data.datasets import open_dataset
from mixer.data.folder import ImageFolder, read_image_folder

ROOT = pathlib.Path(__file__).parent.parent.parent
PHOTO = Image.fromarray(load_sample_image("china.jpg"))


def encode(index: int, kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    """Another part of a photo, 40 x 30 pixels, for each index."""
    file = io.BytesIO()
    part = PHOTO.crop((index, 2 * index, index + 40, 2 * index + 30)).convert(mode)
    part.save(file, kind, **options)
    return file.getvalue()


def write(path: pathlib.Path, content: bytes) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


def write_tar(path: pathlib.Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def read_back(path: str, split: str) -> dict[str, tuple[bytes, int]]:
    """File name -> bytes and label of every example of a split, through TFDS alone."""
    builder = tfds.builder_from_directory(path)
    examples = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    found = {
        example["file_name"].decode(): (example["image"], int(example["label"]))
        for example in examples
    }
    assert len(found) == len(examples)
    return found


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """Two splits of two classes: 8 images to train on, 2 to test on."""
    folder = tmp_path / "source"
    for index in range(8):
        write(folder / "train" / ("cat", "dog")[index % 2] / f"{index}.jpg", encode(index))
    for index, name in enumerate(("cat", "dog")):
        write(folder / "test" / name / f"{index}.jpg", encode(100 + index))
    return folder


@pytest.fixture
def ingest(tmp_path: pathlib.Path) -> Callable[..., prepare.IngestReport]:
    def run(source: pathlib.Path, name: str = "pets", **options: object) -> prepare.IngestReport:
        return prepare.ingest_images(
            str(source), name, data_dir=str(tmp_path / "data"), **{"num_shards": 1, **options}
        )

    return run


@pytest.mark.parametrize("check", ["decode", "header"])
def test_the_bytes_of_every_kind_of_image_come_back_unchanged(ingest, tmp_path, check):
    contents = {
        "a.jpg": encode(0),
        "b.JPEG": encode(1, progressive=True),
        "c.jpeg": encode(2, mode="L"),
        "d.JPG": encode(3, mode="CMYK"),
        "e.png": encode(4, "PNG"),
        "f.PNG": encode(5, "PNG", mode="RGBA"),
        "g.jpg": encode(6, "PNG"),  # the kind is in the bytes, not in the name
        "h.jpg": encode(7) + bytes(100),  # more after the end mark
        "ümlaut.jpg": encode(8),
        "i.bmp": encode(9, "BMP", mode="P"),
        "j.GIF": encode(10, "GIF"),
        "k.webp": encode(11, "WEBP"),
    }
    for name, content in contents.items():
        write(tmp_path / "source" / "train" / "things" / name, content)
    write(tmp_path / "source" / "train" / "things" / "notes.txt", b"not an image")
    write(tmp_path / "source" / "train" / "things" / ".DS_Store", b"not for us")
    report = ingest(tmp_path / "source", check=check)
    assert read_back(report.path, "train") == {n: (c, 0) for n, c in contents.items()}
    assert report.images == {"train": {"things": 12}}
    assert report.ignored == {".txt": 1}
    assert report.unreadable == {}


def test_images_decode_through_tfds(ingest, source):
    report = ingest(source)
    example = tfds.builder_from_directory(report.path).as_data_source("test")[0]
    assert example["image"].shape == (30, 40, 3)


def test_labels_follow_the_given_order_and_counts_are_reported(ingest, source):
    write(source / "train" / "dog" / "more.jpg", encode(50))
    report = ingest(source, class_names=["fox", "dog", "cat"], num_shards=2)
    info = tfds.builder_from_directory(report.path).info
    assert info.features["label"].names == ["fox", "dog", "cat"]
    assert (info.splits["train"].num_examples, info.splits["test"].num_examples) == (9, 2)
    assert info.splits["train"].num_shards == 2
    assert info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    assert report.images == {
        "test": {"fox": 0, "dog": 1, "cat": 1},
        "train": {"fox": 0, "dog": 5, "cat": 4},
    }
    assert report.empty_classes == ["fox"]
    assert "9 images; smallest class cat (4), largest dog (5)" in report.summary()
    labels = {name: label for name, (_, label) in read_back(report.path, "train").items()}
    assert labels == {"more.jpg": 1, **{f"{i}.jpg": 2 - i % 2 for i in range(8)}}
    saved = json.loads(pathlib.Path(report.path, "ingest_report.json").read_text())
    assert saved["images"] == report.images


def test_the_order_of_the_records_does_not_depend_on_the_run(ingest, source):
    runs = [read_back(ingest(source, name).path, "train") for name in ("one", "two")]
    assert list(runs[0].items()) == list(runs[1].items())
    assert sorted(runs[0]) != list(runs[0])  # shuffled


def test_tar_files_are_read_without_unpacking(ingest, tmp_path):
    first = {f"n01_{index}.JPEG": encode(index) for index in range(3)}
    second = {"./n02/n02_7.png": encode(7, "PNG"), "n02/readme.txt": b"text"}
    write_tar(tmp_path / "source" / "n01.tar", first)
    write_tar(tmp_path / "source" / "n02.tar", second)
    report = ingest(tmp_path / "source", class_names=["n02", "n01"])
    assert report.images == {"train": {"n02": 1, "n01": 3}}
    assert report.ignored == {".txt": 1}
    assert read_back(report.path, "train") == {
        "n02/n02_7.png": (second["./n02/n02_7.png"], 0),
        **{name: (content, 1) for name, content in first.items()},
    }


@pytest.mark.parametrize("name", ["train", "data"])
@pytest.mark.parametrize("folders", [("train/cat", "train/dog"), ("cat", "dog"), ("", "dog")])
def test_a_tar_file_of_several_classes_is_no_class(ingest, tmp_path, name, folders):
    members = {
        f"{folder}/{i}.png".lstrip("/"): encode(i, "PNG") for folder in folders for i in (1, 2)
    }
    for place in (".", "train"):
        source = tmp_path / f"source-{place}"
        write_tar(source / place / f"{name}.tar", members)
        with pytest.raises(ValueError, match=rf"{name}\.tar.* Unpack it"):
            ingest(source, unreadable="skip")
        assert not (tmp_path / "data" / "pets").exists()


@pytest.mark.parametrize("names", [["train", "val"], ["TEST"]])
def test_tar_files_named_as_splits_are_no_classes(ingest, tmp_path, names):
    for name in names:
        write_tar(tmp_path / "source" / f"{name}.tar", {"0.jpg": encode(0)})
    with pytest.raises(
        ValueError, match=rf"{names[0]}\.tar, named as a split. Unpack it into .*{names[0]}, "
    ):
        ingest(tmp_path / "source")
    write_tar(tmp_path / "source" / "bus.tar", {"0.jpg": encode(0)})  # then they are vehicles
    assert ingest(tmp_path / "source").splits == {"train": len(names) + 1}


def test_tar_files_next_to_class_folders_in_a_split(ingest, source):
    write_tar(source / "train" / "fox.tar", {"0.jpg": encode(30)})
    assert ingest(source).splits == {"test": 2, "train": 9}


@pytest.mark.parametrize("name", ["../evil.jpg", "/etc/evil.jpg", "a/../../evil.jpg"])
@pytest.mark.parametrize("unreadable", ["fail", "skip"])
def test_a_member_that_points_outside_is_refused(ingest, tmp_path, name, unreadable):
    write_tar(tmp_path / "source" / "n01.tar", {"good.jpg": encode(0), name: encode(1)})
    with pytest.raises(ValueError, match="paths inside the archive; got '.*evil.jpg'"):
        ingest(tmp_path / "source", unreadable=unreadable)
    assert not (tmp_path / "data" / "pets").exists()


def spoil(source: pathlib.Path) -> dict[str, str]:
    """Adds unreadable files; returns file name -> how the reason begins."""
    folder = source / "train" / "cat"
    write(folder / "cut.jpg", encode(20)[:-40])
    write(folder / "cut.png", encode(21, "PNG")[:-40])
    write(folder / "empty.jpg", b"")
    write(folder / "film.jpg", encode(22, "TIFF"))
    (folder / "gone.jpg").symlink_to("nowhere")
    return {
        "cut.jpg": "is a JPEG",
        "cut.png": "is a PNG",
        "empty.jpg": "is empty",
        "film.jpg": "is no JPEG, PNG, BMP, GIF or WebP image: it begins with b'II*",
        "gone.jpg": "cannot be read: No such file",
    }


@pytest.mark.parametrize("check", ["decode", "header"])
def test_unreadable_images_are_left_out_and_listed(ingest, source, check):
    expected = spoil(source)
    report = ingest(source, unreadable="skip", check=check)
    assert {pathlib.Path(path).name for path in report.unreadable} == set(expected)
    for path, problem in report.unreadable.items():
        assert problem.startswith(expected[pathlib.Path(path).name])
    assert report.images["train"] == {"cat": 4, "dog": 4}
    assert len(read_back(report.path, "train")) == 8
    saved = json.loads(pathlib.Path(report.path, "ingest_report.json").read_text())
    assert saved["unreadable"] == report.unreadable
    assert "5 unreadable files" in report.summary()


def test_unreadable_images_are_fatal_unless_they_may_be_skipped(ingest, source, tmp_path):
    expected = spoil(source)
    with pytest.raises(ValueError, match="--unreadable=skip") as caught:
        ingest(source)
    for name in expected:
        assert f"cat/{name} " in str(caught.value)
    assert not (tmp_path / "data" / "pets").exists()


@pytest.mark.parametrize("kept", [700, 1024, 2560])  # in, and between, members
def test_a_tar_file_that_was_cut_short_is_unreadable(ingest, tmp_path, kept):
    path = tmp_path / "source" / "n01.tar"
    write_tar(path, {f"{index}.png": b"\x89PNG" + bytes(300) for index in range(5)})
    write_tar(tmp_path / "source" / "n02.tar", {"0.jpg": encode(0)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match="n01.tar is a tar file without its end"):
        ingest(tmp_path / "source")
    report = ingest(tmp_path / "source", unreadable="skip")
    assert report.unreadable[str(path)] == "is a tar file without its end: cut short"
    assert report.images["train"] == {"n01": 0, "n02": 1}


def test_a_tar_file_that_cannot_be_opened_is_unreadable(ingest, tmp_path):
    write_tar(tmp_path / "source" / "n01.tar", {"0.jpg": encode(0)})
    path = tmp_path / "source" / "n02.tar"
    path.symlink_to("nowhere")  # unreadable even for root
    with pytest.raises(ValueError, match="n02.tar cannot be read: No such file.*\n.*=skip"):
        ingest(tmp_path / "source")
    assert not (tmp_path / "data" / "pets").exists()
    report = ingest(tmp_path / "source", unreadable="skip")
    assert report.unreadable == {str(path): "cannot be read: No such file or directory"}
    assert report.images["train"] == {"n01": 1, "n02": 0}
    assert report.ignored == {}


def test_a_tar_file_that_fails_while_it_is_read_is_unreadable(ingest, tmp_path, monkeypatch):
    write_tar(tmp_path / "source" / "n01.tar", {"0.jpg": encode(0)})
    path = tmp_path / "source" / "n02.tar"
    write_tar(path, {f"{index}.jpg": encode(index) for index in range(20)})
    next_member = tarfile.TarFile.next

    def fail_at_the_eighth(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        if len(archive.members) == 7:
            raise OSError(errno.EIO, "Input/output error")
        return next_member(archive)

    monkeypatch.setattr(tarfile.TarFile, "next", fail_at_the_eighth)
    with pytest.raises(ValueError, match="n02.tar is a broken tar file: .*Input/output error"):
        ingest(tmp_path / "source")
    report = ingest(tmp_path / "source", unreadable="skip")
    assert report.unreadable == {
        str(path): "is a broken tar file: [Errno 5] Input/output error",
    }
    assert report.images == {"train": {"n01": 1, "n02": 7}}  # what was read before is kept


def test_links_and_second_members_of_a_name_are_unreadable(ingest, tmp_path):
    path = tmp_path / "source" / "n01.tar"
    write_tar(path, {"0.jpg": encode(0)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        again = tarfile.TarInfo("./0.jpg")
        again.size = 4
        archive.addfile(again, io.BytesIO(b"else"))
    report = ingest(tmp_path / "source", unreadable="skip")
    assert report.unreadable == {
        f"{path}:1.jpg": "is a link or a device, not a file",
        f"{path}:./0.jpg": "is there twice",
    }
    assert report.images == {"train": {"n01": 1}}


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], {}, "holds none that has an image, but nothing else. Expected: PATH/CLASS"),
        (["0.jpg"], {}, "Expected images in class folders; got .*0.jpg"),
        (["cat/inner/0.jpg"], {}, "got .*cat/inner/0.jpg, which is deeper, and none in .*cat. M"),
        (
            [f"{split}/cat/sub/0.jpg" for split in ("train", "test")],
            {},
            "got .*test/cat/sub/0.jpg, which is deeper, and none in .*/test. Move",
        ),
        (["train/cat/0.jpg", "te-st/cat/0.jpg"], {}, "named as TFDS names splits; got 'te-st'"),
        (["train/cat/0.jpg", "test/notes.txt"], {}, "Expected classes in .*test; it holds none"),
        (["cat/0.jpg", "cat.tar"], {}, "one place for each class"),
        (["cat/0.txt"], {}, r"holds none that has an image, but 1 \.txt; 1 folder without .*cat"),
        (["cat/0.jpg"], {"num_shards": 2}, "at least 2 readable images, one for each shard"),
        (["cat/0.jpg"], {"num_shards": 0}, "at least one shard; got num_shards=0"),
        (
            ["cta/0.jpg"],
            {"class_names": ["dog", "cat"]},
            "got 1 not in it, such as 'cta' .* mean 'cat'",
        ),
        (["cat/0.jpg"], {"class_names": ["cat", "cat"]}, "got twice: cat"),
        (["cat/0.jpg"], {"class_names": ["cat", " dog"]}, "a line of UTF-8 text; got ' dog'"),
        (["cat/0.jpg"], {"name": "My-Pets"}, "dataset name of lower-case .* got 'My-Pets'"),
        (["cat/0.jpg"], {"name": "imagenet21k"}, "Expected 21,843 classes for imagenet21k; got 1"),
        (["cat/0.jpg"], {"name": "folder"}, "'folder', which stands for a folder .*another name"),
        (["cat/0.jpg"], {"name": "digits"}, "'digits', .* the digits in this code"),
        (
            ["cat/0.jpg"],
            {"name": "imagenet_v2"},
            "'imagenet_v2', .*a dataset that only TFDS writes",
        ),
        (["cat/0.jpg"], {"name": "imagenet2012_real"}, "'imagenet2012_real', .*another name"),
        (["cat/0.jpg"], {"unreadable": "keep"}, "to be fail or skip; got 'keep'"),
        (["cat/0.jpg"], {"check": "none"}, "to be decode or header; got 'none'"),
    ],
)
def test_bad_sources_and_arguments_are_refused(ingest, tmp_path, files, options, message):
    (tmp_path / "source").mkdir()
    for file in files:
        write(tmp_path / "source" / file, encode(0))
    with pytest.raises(ValueError, match=message):
        ingest(tmp_path / "source", **options)
    assert not list(tmp_path.glob("data/pets"))


def test_a_missing_source_and_a_remote_destination_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="Expected images in .*nowhere/CLASS/.*; there is no such folder"
    ):
        prepare.ingest_images(str(tmp_path / "nowhere"), "pets", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="a local data_dir, .* got gs://bucket"):
        prepare.ingest_images(str(tmp_path), "pets", data_dir="gs://bucket/data")


def test_a_class_may_be_called_train(ingest, tmp_path):
    for name in ("train", "bus"):
        write(tmp_path / "source" / name / "0.jpg", encode(0))
    assert ingest(tmp_path / "source").images == {"train": {"bus": 1, "train": 1}}


def test_an_existing_dataset_is_never_overwritten(ingest, source):
    path = ingest(source).path
    before = {file: file.read_bytes() for file in pathlib.Path(path).iterdir()}
    with pytest.raises(ValueError, match="never overwritten: choose another name, or delete"):
        ingest(source)
    assert {file: file.read_bytes() for file in pathlib.Path(path).iterdir()} == before


def test_a_disk_that_is_too_small_is_refused(ingest, source, monkeypatch):
    full = type(shutil.disk_usage("/"))(100, 99, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ValueError, match="GiB free in .*; got 0.0 GiB"):
        ingest(source)


def test_room_is_needed_for_images_alone(ingest, source, monkeypatch):
    folder = next(path for path in sorted(source.rglob("*")) if path.is_file()).parent
    with open(folder / "huge.jpg", "wb") as sparse:
        sparse.truncate(2**40)
    small = type(shutil.disk_usage("/"))(2**30, 0, 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: small)
    report = ingest(source, unreadable="skip")
    assert [pathlib.PurePath(name).name for name in report.unreadable] == ["huge.jpg"]


def test_more_than_fits_into_memory_is_sorted_on_disk(ingest, source, monkeypatch):
    from tensorflow_datasets.core import shuffle

    in_memory = read_back(ingest(source, "small").path, "train")
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    report = ingest(source, "big")
    assert list(read_back(report.path, "train").items()) == list(in_memory.items())
    assert not list(pathlib.Path(report.path).glob("*.tmp"))


INGEST = """
import signal
# Tests that run in the background ignore SIGINT, and so would this child of theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from mixer.data.prepare import ingest_images, sources

def read_once_told(path, read=sources.read_image):
    if path.name == "9.jpg":
        open(sys.argv[3]).read()
    return read(path)

sources.read_image = read_once_told
try:
    ingest_images(sys.argv[1], "pets", data_dir=sys.argv[2])
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextlib.contextmanager
def stuck_ingestion(
    source: pathlib.Path, data_dir: pathlib.Path
) -> Iterator[tuple[subprocess.Popen, int]]:
    """An ingestion in another process that waits in the middle, until the pipe is closed."""
    image, fifo = source / "train" / "dog" / "9.jpg", source.parent / "wait"
    write(image, encode(9))
    os.mkfifo(fifo)
    process = subprocess.Popen([sys.executable, "-c", INGEST, source, data_dir, fifo], cwd=ROOT)
    try:
        yield process, open_when_read(fifo, process)
    finally:
        process.kill()
        process.wait(timeout=60)
        fifo.unlink()
        image.unlink()


def open_when_read(fifo: pathlib.Path, process: subprocess.Popen) -> int:
    deadline = time.monotonic() + 60
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # no reader yet
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_after_a_kill_the_same_command_starts_again(ingest, source, tmp_path):
    folder = tmp_path / "data" / "pets"
    with stuck_ingestion(source, tmp_path / "data") as (process, pipe):
        with pytest.raises(ValueError, match="alone; another process does so now"):
            ingest(source)
        process.kill()
        process.wait(timeout=60)
        os.close(pipe)
        assert [path.name[:11] for path in folder.iterdir()] == ["incomplete."]
        assert list(folder.glob("*/*test*"))  # a split was written
    report = ingest(source)
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]
    assert report.splits == {"test": 2, "train": 8}
    assert len(read_back(report.path, "train")) == 8


def test_the_destination_is_locked_before_the_source_is_read(ingest, source, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "pets"
    refusals = []

    def scan_while_another_process_tries(*arguments: object, **options: bool) -> ImageFolder:
        for _ in range(2):  # the first refusal does not take the lock away
            with pytest.raises(ValueError, match="alone; another process does so now") as caught:
                ingest(tmp_path / "nowhere")
            refusals.append(caught.value)
            assert folder.exists()
        return read_image_folder(*arguments, **options)

    scan = scan_while_another_process_tries
    monkeypatch.setattr("mixer.data.prepare.ingest.read_image_folder", scan)
    assert ingest(source).splits == {"test": 2, "train": 8}
    assert len(refusals) == 2


@pytest.mark.slow
def test_an_interrupt_leaves_nothing_behind(source, tmp_path):
    with stuck_ingestion(source, tmp_path / "data") as (process, pipe):
        process.send_signal(signal.SIGINT)
        os.close(pipe)
        assert process.wait(timeout=60) == 130
        assert not (tmp_path / "data" / "pets").exists()


def test_what_others_wrote_beside_it_is_kept(ingest, source, tmp_path):
    folder = tmp_path / "data" / "pets"
    write(tmp_path / "data" / "notes.txt", b"mine")
    for name in ("incomplete.notes", "incomplete.ABC123_1.0.0"):
        write(folder / name / "mine.txt", b"mine")
        with pytest.raises(ValueError, match=f"Expected no dataset in .*found .*{name}"):
            ingest(source)
        assert (folder / name / "mine.txt").read_bytes() == b"mine"
        shutil.rmtree(folder / name)
    write(folder / "incomplete.ABC123_1.0.0" / "pets-train.array_record-00000-of-00001", b"ours")
    ingest(source)
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]
    assert (tmp_path / "data" / "notes.txt").read_bytes() == b"mine"


def test_class_folders_alone_are_split_as_in_training(ingest, tmp_path):
    for index in range(24):
        write(tmp_path / "source" / ("cat", "dog")[index % 2] / f"{index}.jpg", encode(index))
    report = ingest(tmp_path / "source")
    assert report.splits == {"test": 3, "train": 21}
    assert (
        "about a tenth of each class, by file name, is test (3 images) and the rest train (21)"
        in (report.summary())
    )
    for split in ("test", "train"):
        records = open_dataset(f"folder:{tmp_path / 'source'}", split, "").records
        names = {pathlib.Path(records.locate(index)).name for index in range(len(records))}
        assert names == set(read_back(report.path, split))
    names = {path.name for path in (tmp_path / "data" / "pets" / "1.0.0").iterdir()}
    assert "ingest_report.json" in names
    # The same words work for it as for the folder.
    for split, count in (("validation", 3), ("train[:50%]", 10)):
        for name in (f"folder:{tmp_path / 'source'}", "pets"):
            assert len(open_dataset(name, split, str(tmp_path / "data")).records) == count


def test_class_names_are_read_one_per_line(tmp_path):
    (tmp_path / "classes.txt").write_text("dog \n\ncat\r\n")
    assert read_class_list(str(tmp_path / "classes.txt")) == ["dog", "cat"]
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfdog\ncaf\xc3\xa9")
    assert read_class_list(str(tmp_path / "classes.txt")) == ["dog", "café"]
    (tmp_path / "classes.txt").write_bytes(b"dog\ncaf\xe9")
    with pytest.raises(ValueError, match=r"classes\.txt to be UTF-8 .*0xe9.*\. Save .*iconv -f"):
        read_class_list(str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    ("splits", "flags"),
    [
        (
            ["train", "validation"],
            "--config.train_split=train --config.eval_splits.test=validation",
        ),
        (["train"], "--config.train_split='train[:95%]' --config.eval_splits.test='train[95%:]'"),
        (["test"], "--config.eval_splits.test=test"),
    ],
)
def test_training_flags_name_the_splits_that_are_there(splits, flags):
    assert prepare.training_flags("pets", "d", splits) == (
        f"--config.dataset=pets --config.data_dir=d {flags}"
    )


def run_script(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "prepare_dataset.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_help_of_the_script():
    result = run_script("--help")
    assert "python scripts/prepare_dataset.py --images=PATH --name=NAME" in result.stdout
    assert "--unreadable: <fail|skip>" in result.stdout
    assert "tensorflow" not in result.stderr.lower()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name=a"], "Expected --images; got none."),
        (["--images=a"], "Expected --name; got none."),
        (["--images=a", "--name=b", "more"], "Expected flags alone; got more"),
        (["--images=a", "--name=b", "--num_shards=0"], "--num_shards=0"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    result = run_script(*flags)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr


def test_the_script_from_images_to_summary(source, tmp_path):
    (tmp_path / "classes.txt").write_text("fox\ndog\ncat\n")
    flags = [f"--images={source}", "--name=pets", f"--data_dir={tmp_path / 'data'}"]
    result = run_script(*flags, f"--classes={tmp_path / 'classes.txt'}")
    assert result.returncode == 0
    path = tmp_path / "data" / "pets" / "1.0.0"
    assert (
        result.stdout
        == f"""\
Wrote 10 images to {path}
  test         2 images, 1 in each class
  train        8 images, 4 in each class
  classes      3
  no image     1 classes: fox
  report       {path}/ingest_report.json
  train on it  --config.dataset=pets --config.data_dir={tmp_path / "data"} \
--config.train_split=train --config.eval_splits.test=test
"""
    )
    assert "train: sorting and writing: 8 images in " in result.stderr  # the progress
    assert len(read_back(str(path), "train")) == 8


def test_an_error_of_the_script_is_a_message(tmp_path, call):
    with pytest.raises(ValueError, match="there is no such folder. A relative path"):
        call("prepare_dataset.py", f"--images={tmp_path / 'nowhere'}", "--name=pets")
