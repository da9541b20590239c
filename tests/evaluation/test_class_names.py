"""Names of classes: ImageNet's in the order of the labels, a file's, or numbers."""

import dataclasses
import unicodedata

import pytest
import tensorflow_datasets as tfds

from mixer.data.imagenet import imagenet_class_names
from mixer.evaluation.class_names import find_class_names, match_classes


def test_imagenet_names_are_in_the_order_of_the_labels(tmp_path):
    names = imagenet_class_names()
    builder = tfds.builder("imagenet2012", data_dir=str(tmp_path))
    assert list(names) == builder.info.features["label"].names
    in_words = list(names.values())
    assert in_words[:2] + in_words[-1:] == ["tench", "goldfish", "toilet tissue"]
    # the bird and the machine
    assert [in_words[134], in_words[517]] == ["crane (n02012849)", "crane (n03126707)"]
    assert len(set(in_words)) == 1000


def test_where_names_come_from(tmp_path, colour_model):
    loaded = colour_model(3)
    assert find_class_names(loaded) == ["class 0", "class 1", "class 2"]
    assert find_class_names(colour_model(1000))[0] == "tench"
    named = dataclasses.replace(loaded, class_names=("a", "n01440764", "c"))
    assert find_class_names(named) == ["a", "tench", "c"]
    file = tmp_path / "names.txt"
    file.write_text("rot\ngrün\nblau\n", "utf-8")
    assert find_class_names(named, str(file)) == ["rot", "grün", "blau"]


def test_a_file_that_does_not_fit_is_refused(tmp_path, colour_model):
    file = tmp_path / "names.txt"
    file.write_text("red\ngreen\n")
    with pytest.raises(ValueError, match="Expected 3 class names, .* got 2 in .*names.txt"):
        find_class_names(colour_model(3), str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="Expected .*names.txt to be UTF-8 text"):
        find_class_names(colour_model(3), str(file))


def test_a_file_as_editors_on_other_systems_write_it(tmp_path, colour_model):
    file = tmp_path / "names.txt"
    for content in (b"\xef\xbb\xbfrot\r\ngr\xc3\xbcn\r\n\r\nblau", b"rot \ngr\xc3\xbcn\nblau\n"):
        file.write_bytes(content)
        assert find_class_names(colour_model(3), str(file)) == ["rot", "grün", "blau"]
    file.write_bytes("rot\ngrün\nblau\n".encode("latin-1"))
    with pytest.raises(ValueError, match="names.txt to be UTF-8 text.* iconv -f latin1 -t utf-8"):
        find_class_names(colour_model(3), str(file))


def test_a_file_with_the_weights_names_in_another_order_is_refused(tmp_path, colour_model):
    named = dataclasses.replace(colour_model(3), class_names=("ant", "bee", "cat"))
    file = tmp_path / "names.txt"
    file.write_text("bee\nant\ncat\n")
    with pytest.raises(ValueError, match="another order: bee for ant; ant for bee. Leave out"):
        find_class_names(named, str(file))
    file.write_text("Ameise\nBiene\nKatze\n")
    assert find_class_names(named, str(file)) == ["Ameise", "Biene", "Katze"]


OWN = ("ant", "bee", "cat")
BY_NAME = "Labels are matched by name: {} of the weights' 3 classes."
BY_POSITION = "The {} no class names: labels are compared by position."


@pytest.mark.parametrize(
    ("own", "names", "expected"),
    [
        (OWN, OWN, (None, "")),
        (OWN, ("cat", "ant", "bee"), ([2, 0, 1], BY_NAME.format(3))),
        (OWN, ("cat", "ant"), ([2, 0], BY_NAME.format(2))),
        (OWN, ("bee",), ([1], BY_NAME.format(1))),
        (None, OWN, (None, BY_POSITION.format("weights have"))),
        (("0", "1", "2"), OWN, (None, BY_POSITION.format("weights have"))),
        (OWN, ("0", "1", "2"), (None, BY_POSITION.format("dataset has"))),
        (("00", "01", "02"), ("0", "1", "2"), (None, BY_POSITION.format("dataset has"))),
        (("0", "10", "2"), ("0", "2", "10"), ([0, 2, 1], BY_NAME.format(3))),
        (("caf\u00e9", "b", "c"), ("cafe\u0301", "b", "c"), (None, "")),
        (("caf\u00e9", "b", "c"), ("b", "cafe\u0301"), ([1, 0], BY_NAME.format(2))),
        (("n01440764", "b", "c"), ("tench", "b", "c"), (None, "")),
        (("n01440764", "n01443537", "c"), ("goldfish",), ([1], BY_NAME.format(1))),
    ],
)
def test_which_logit_belongs_to_which_class(own, names, expected):
    assert match_classes(own, 3, names, "folder:D") == expected


@pytest.mark.parametrize(
    ("own", "names", "message"),
    [
        (
            OWN,
            ("dog", "elk", "fox"),
            r"3 of its 3 .*dataset: dog; elk; fox\n  weights: ant; b",
        ),
        (
            OWN,
            ("ant", "bee", "dog"),
            r"1 of its 3 are not among theirs.*\n  missing: dog\nFine",
        ),
        (OWN, ("ant", "bee", "cat", "dog"), r"1 of its 4 .*missing: dog"),
        (OWN, ("Ant", "bee", "cat"), r"missing: Ant\n.*--class_names=FILE"),
        (None, ("ant", "bee"), "for the 2 classes of folder:D; got 3 classes"),
        (("0", "1", "2"), ("ant", "bee"), "for the 2 classes of folder:D; got 3 classes"),
        (OWN, ("0", "1", "2", "3"), "for the 4 classes of folder:D; got 3 classes"),
        # Numbers that contradict each other are names: of 1 to 3, 1 is not the class in place 1.
        (("1", "2", "3"), ("0", "1", "2"), r"1 of its 3 .*missing: 0\n"),
        (("0", "1", "2"), ("1", "2", "3"), r"1 of its 3 .*missing: 3\n"),
        (("0", "1", "2"), ("10", "20", "30"), r"3 of its 3 .*missing: 10; 20; 30\n"),
        (("0", "1", "2"), ("2", "ant", "bee"), r"2 of its 3 .*missing: ant; bee\n"),
        (("01", "00", "02"), ("0", "1", "2"), r"3 of its 3 .*missing: 0; 1; 2\n"),
        (("caf\u00e9", "cafe\u0301", "c"), ("c",), "the weights with distinct names"),
        (("caf\u00e9", "b", "c"), ("caf\u00e9", "cafe\u0301"), "folder:D with distinct names"),
    ],
)
def test_other_classes_are_refused_with_both_lists(own, names, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        match_classes(own, 3, names, "folder:D")


def test_published_names_are_composed():
    names = imagenet_class_names()
    assert all(unicodedata.is_normalized("NFC", name) for name in names.values())
