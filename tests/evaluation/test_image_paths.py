"""Files, folders and patterns become images; what is left out is said."""

import os
import pathlib

import pytest

from mixer.evaluation.image_paths import find_images

NAMES = ["b/2.PNG", "b/1.jpg", "a.jpeg", "b/c/3.webp", "b/notes.txt", "b/.hidden.png", ".git/x.png"]
NAMES += ["[1].png", "b/README"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> pathlib.Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def found(*arguments: str) -> list[str]:
    return [str(path) for path in find_images(arguments)]


def test_a_folder_stands_for_all_images_in_it(capsys):
    assert found("b") == ["b/1.jpg", "b/2.PNG", "b/c/3.webp"]
    assert capsys.readouterr().err == "Not images, left out: 1 .txt, 1 without a suffix.\n"
    assert found(".") == ["[1].png", "a.jpeg", "b/1.jpg", "b/2.PNG", "b/c/3.webp"]


def test_patterns_and_files_in_the_order_given_each_once(folder, capsys):
    assert found("b/*.jpg", "a.jpeg", "b/1.jpg") == ["b/1.jpg", "a.jpeg"]
    assert found("**/*.webp") == ["b/c/3.webp"]
    assert found("[1].png") == ["[1].png"]  # a file of that name, not the pattern
    assert found("~/a.jpeg") == [f"{folder}/a.jpeg"]
    assert capsys.readouterr().err == ""
    assert found("b/*") == ["b/1.jpg", "b/2.PNG", "b/c/3.webp"]  # as if the shell had expanded it
    assert capsys.readouterr().err == "Not images, left out: 1 .txt, 1 without a suffix.\n"
    assert found("b/notes.txt") == ["b/notes.txt"]  # named, so that its reader says what it is


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected image files, folders or patterns; got none"),
        ([""], "got an empty argument"),
        (["missing.png"], "there is no file missing.png"),
        (["*.gif"], r"Expected images .* in \*.gif; there are none"),
        (["empty"], "in empty; there are none"),
        (["fifo"], "fifo is no file and no folder"),
        (["two\nlines"], r"there is no file two\\nlines"),
    ],
)
def test_what_names_no_image_is_refused(arguments, message, folder):
    (folder / "empty").mkdir()
    os.mkfifo(folder / "fifo")
    with pytest.raises(ValueError, match=message):
        find_images(arguments)


def test_special_files_in_a_folder_are_not_opened(folder, capsys):
    os.mkfifo(folder / "b" / "pipe.png")
    (folder / "b" / "zero.jpg").symlink_to("/dev/zero")
    (folder / "b" / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "b" / "loop").symlink_to(folder / "b")
    assert found("b") == ["b/1.jpg", "b/2.PNG", "b/c/3.webp"]
    assert "3 that are no files" in capsys.readouterr().err
