"""Predictions as text, CSV and JSON, with names that terminals and spreadsheets must not obey."""

import csv
import io
import json
import os
import pathlib

import pytest

from mixer.evaluation.prediction import Prediction
from mixer.evaluation.prediction_table import as_csv, as_json, as_text, printable, replace_file

HOSTILE = ["=HYPERLINK(1)", "+1", "-2", "@SUM(A1)", "\tx", 'a, "b"', "two\nlines", "\x1b[31mred"]


def make(name: str, path: str = "a.png", true: str | None = None) -> Prediction:
    return Prediction(pathlib.Path(path), None, (name, "other"), (0.75, 0.125), true)


def test_text():
    right, wrong = make("cat", "d/cat/a.png", "cat"), make("cat", "d/dog/b.png", "dog")
    assert (
        as_text([right, wrong, make("cat", "c.png")])
        == """\
d/cat/a.png, true: cat
   75.00%  cat
   12.50%  other
d/dog/b.png, true: dog
   75.00%  cat
   12.50%  other
c.png
   75.00%  cat
   12.50%  other
top-1 50.00%, 1 of 2 images whose folder is named after a class
"""
    )


def test_csv_and_json():
    predictions = [make("cat", "d/cat/a.png", "cat"), make("dog")]
    assert (
        as_csv(predictions)
        == """\
image,true_class,class_1,probability_1,class_2,probability_2
d/cat/a.png,cat,cat,0.75,other,0.125
a.png,,dog,0.75,other,0.125
"""
    )
    assert json.loads(as_json(predictions)) == [
        {
            "image": "d/cat/a.png",
            "true_class": "cat",
            "classes": ["cat", "other"],
            "probabilities": [0.75, 0.125],
        },
        {
            "image": "a.png",
            "true_class": None,
            "classes": ["dog", "other"],
            "probabilities": [0.75, 0.125],
        },
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name):
    predictions = [make(name, f"{name}.png", name)]
    _, row = csv.reader(io.StringIO(as_csv(predictions), newline=""))
    quoted = name if name[0] in "at\x1b" else f"'{name}"
    assert row[:3] == [quoted + ".png", quoted, quoted]
    assert json.loads(as_json(predictions))[0]["classes"][0] == name
    lines = as_text(predictions).splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)


def test_file_names_that_are_not_unicode():
    path = os.fsdecode(b"caf\xe9.png")
    predictions = [make("Caf\u00e9", path)]
    assert as_text(predictions).splitlines()[0] == "caf\\udce9.png"
    assert as_csv(predictions).splitlines()[1].encode() == "caf\\udce9.png,,Caf\u00e9,".encode() + (
        b"0.75,other,0.125"
    )
    assert os.fsencode(json.loads(as_json(predictions))[0]["image"]) == b"caf\xe9.png"
    assert as_json(predictions).isascii()
    assert printable("Caf\u00e9 \u4e2d") == "Caf\u00e9 \u4e2d"


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    output = tmp_path / "p.csv"
    replace_file(output, b"first")
    write = pathlib.Path.write_bytes

    def write_some(path: pathlib.Path, data: bytes) -> None:
        write(path, data[:1])
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", write_some)
    with pytest.raises(OSError, match="No space left"):
        replace_file(output, b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


@pytest.mark.parametrize("exists", [True, False])
def test_of_a_link_the_file_that_it_leads_to_is_written(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "t.csv", tmp_path / "link.csv"
    if exists:
        target.write_bytes(b"first")
    link.symlink_to(target)
    replace_file(link, b"second")
    assert link.is_symlink()
    assert target.read_bytes() == b"second"
    assert [path.name for path in target.parent.iterdir()] == ["t.csv"]
