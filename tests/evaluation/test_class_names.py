"""Names of classes: ImageNet's in the order of the labels, a file's, or numbers."""

import dataclasses

import pytest
import tensorflow_datasets as tfds

from mixer.evaluation.class_names import find_class_names, imagenet_class_names


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
