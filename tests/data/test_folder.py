"""Folders of images: splits, the images held out, fingerprints, and what is said."""

import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import digits, finetune
from mixer.data.datasets import open_dataset
from mixer.data.folder import read_image_folder
from mixer.data.splits import held_out as held_out_of
from mixer.data.splits import resolve_split
from mixer.weights.eval_recipe import PAPER


def write(root: pathlib.Path, *places: str) -> str:
    """Writes a small JPEG at each place, each of another grey; returns the dataset's name."""
    for number, place in enumerate(places):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 5, 3), number % 256, np.uint8)).save(path, "JPEG")
    return f"folder:{root}"


def opened(name: str, split: str) -> list[str]:
    records = open_dataset(name, split, "").records
    return [records.locate(index).rpartition("/")[2] for index in range(len(records))]


@pytest.mark.parametrize(
    ("name", "there", "found"),
    [
        ("test", ["test", "train"], "test"),
        ("test", ["train", "val"], "val"),
        ("validation", ["train", "val"], "val"),
        ("val", ["train", "validation", "test"], "validation"),
        ("valid", ["train", "test"], "test"),
        ("test", ["train", "valid", "validation"], "validation"),
        ("train", ["TRAIN", "Val"], "TRAIN"),
        ("test", ["TRAIN", "Val"], "Val"),
        ("minival", ["minival", "train"], "minival"),
    ],
)
def test_a_held_out_split_stands_for_another(name, there, found):
    assert resolve_split(name, there, "x") == found


def test_an_unknown_split_is_an_error_with_the_flags_that_work(tmp_path):
    name = write(tmp_path, *(f"train/{c}/{i}.jpg" for c in "ab" for i in range(10)))
    with pytest.raises(ValueError, match="Unknown split 'test' of .*one of: train") as caught:
        open_dataset(name, "test", "")
    flags = "--config.train_split='train[:90%]' --config.eval_splits.test='train[90%:]'"
    assert flags in str(caught.value)
    parts = [opened(name, split) for split in ("train[:90%]", "train[90%:]")]
    assert [len(part) for part in parts] == [18, 2]
    assert sorted(parts[0] + parts[1]) == sorted(opened(name, "train"))
    assert opened(name, "train[90%:]+train[:90%]") == parts[1] + parts[0]
    for split in ("train[:9999]", "train[", "", "minitest"):
        with pytest.raises(ValueError, match="Expected"):
            open_dataset(name, split, "")


def test_about_a_tenth_of_each_class_is_held_out_by_the_names_alone(tmp_path):
    places = [f"{c}/{i}.jpg" for c in ("ant", "bee") for i in range(20)]
    name = write(tmp_path / "one", *places, "cow/0.jpg")
    other = write(tmp_path / "two", "cow/0.jpg", *reversed(places))
    for split, count in (("train", 39), ("test", 2), ("validation", 2)):
        assert opened(name, split) == opened(other, split)
        assert len(opened(name, split)) == count
    folder = read_image_folder(tmp_path / "one")
    test = {(f.class_name, n) for f in folder.classes if f.split == "test" for n in f.images}
    train = {(f.class_name, n) for f in folder.classes if f.split == "train" for n in f.images}
    assert not test & train
    assert {class_name for class_name, _ in test} == {"ant", "bee"}
    assert open_dataset(name, "test", "").class_names == ("ant", "bee", "cow")
    # The same for ever: a run that is resumed later must not train on its test images.
    assert held_out_of("ant", [f"{i}.jpg" for i in range(20)]) == {"7.jpg"}


def test_adding_or_deleting_images_moves_no_other_to_or_from_test():
    names = [f"{i}.jpg" for i in range(2000)]
    test = held_out_of("ant", names)
    assert len(test) == 198
    assert held_out_of("ant", names[::-1]) == test
    for kept in (names[:1000], names[1::3], names[7:]):
        assert held_out_of("ant", kept) == test & set(kept)
    assert held_out_of("bee", names) != test
    # At least one image of a class on either side, whatever the hashes; a single one is trained on.
    rest = [name for name in names if name not in test]
    assert [len(held_out_of("ant", rest[:n])) for n in (0, 1, 2, 50)] == [0, 0, 1, 1]
    assert held_out_of("ant", sorted(test)) < test
    assert len(held_out_of("ant", sorted(test))) == len(test) - 1
    # A name in both forms of Unicode is two files: both are on one side, or one on each.
    both = ["\u00e9.jpg", "e\u0301.jpg"]
    assert held_out_of("ant", both) == held_out_of("ant", both[::-1]) == {both[1]}


def test_what_is_not_used_is_said_once_in_one_line(tmp_path, capsys):
    name = write(tmp_path, "train/ant/0.jpg", "train/bee/0.jpg", "train/bee/old/1.jpg")
    (tmp_path / "train" / "notes.txt").write_text("x")
    (tmp_path / "train" / ".DS_Store").write_text("x")
    for _ in range(2):
        assert len(opened(name, "train")) == 2
    expected = f"{tmp_path}: not used: 1 .txt; 1 in train/bee/old, too deep.\n"
    assert capsys.readouterr().err == expected


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("Only root can become a user to whom the folder is closed, and come back.")
    name = write(tmp_path, "train/ant/0.jpg", "train/bee/0.jpg")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == 0 and folder != pathlib.Path("/tmp"):
            folder.chmod(0o755)
    (tmp_path / "train" / "bee").chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match="Permission denied: '.*train/bee'"):
            open_dataset(name, "train", "")
    finally:
        os.seteuid(0)


def test_the_fingerprint_is_that_of_the_data(tmp_path):
    places = [f"train/{c}/{i}.jpg" for c in ("ant", "bee") for i in range(30)]

    def fingerprint(root: pathlib.Path, split: str = "train") -> str:
        return open_dataset(f"folder:{root}", split, "").records.fingerprint()

    write(tmp_path / "one", *places)
    original = fingerprint(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / places[3], (0, 0))
    assert fingerprint(tmp_path / "copy") == original
    assert fingerprint(tmp_path / "copy", "train[:50%]") != original
    image = tmp_path / "copy" / places[41]
    image.write_bytes(image.read_bytes() + b"x")  # another size
    assert fingerprint(tmp_path / "copy") != original
    shutil.copyfile(tmp_path / "one" / places[41], image)
    assert fingerprint(tmp_path / "copy") == original
    for place in places:  # the same sizes: other images throughout
        content = (tmp_path / "copy" / place).read_bytes()
        (tmp_path / "copy" / place).write_bytes(content[:-2] + b"\0\0")
    assert fingerprint(tmp_path / "copy") != original
    (tmp_path / "one" / "train" / "bee").rename(tmp_path / "one" / "train" / "cow")
    assert fingerprint(tmp_path / "one") != original


def test_a_relative_folder_says_where_it_was_looked_for(tmp_path, monkeypatch):
    write(tmp_path / "photos", "train/ant/0.jpg")
    monkeypatch.chdir(tmp_path)
    assert opened("folder:photos", "train") == ["0.jpg"]
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    with pytest.raises(
        ValueError, match="no such folder in .*/else, the current folder. A relative"
    ):
        open_dataset("folder:photos", "train", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("folder:~/photos", "train") == ["0.jpg"]
    with pytest.raises(ValueError, match="folder:PATH; got 'folder:' without"):
        open_dataset("folder:", "train", "")


def test_tar_files_are_for_preparation(tmp_path):
    name = write(tmp_path, "ant/0.jpg")
    (tmp_path / "bee.tar").write_bytes(bytes(1024))
    with pytest.raises(ValueError, match=f"bee.tar.*\n  python .*dataset.py --images={tmp_path}"):
        open_dataset(name, "train", "")


@pytest.mark.parametrize("held_out", ["", "test", "val", "valid", "validation"])
def test_the_splits_of_the_configs_are_there_without_flags(tmp_path, held_out):
    splits = ["train", held_out] if held_out else [""]
    places = [f"{s}/{c}/{c}{i}.jpg".lstrip("/") for s in splits for c in "ab" for i in range(20)]
    name = write(tmp_path, *places)
    for config in (digits.get_config(), finetune.get_config(f"Ti/4,{name}")):
        assert config.eval_splits.test == "test"
        for split in (config.train_split, *config.eval_splits.values()):
            assert opened(name, split)
    train, minival, test = (set(opened(name, s)) for s in ("train[:90%]", "train[90%:]", "test"))
    if not held_out:
        assert not test & (train | minival)
        assert len(train | minival | test) == 40
    assert len(opened(name, "train[:90%]")) == round(0.9 * len(opened(name, "train")))
    assert len(opened(name, PAPER.split)) == len(opened(name, "test"))  # of scripts/evaluate.py
