"""Who is taken for whom, counted by hand; the picture shows it."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from mixer.evaluation.confusion import MAX_MISTAKES, Confusion
from mixer.evaluation.confusion_picture import draw_confusion
from mixer.evaluation.evaluate_weights import Images, evaluate_head


def added(labels: list[list[int]], predicted: list[int], probability: list[float]) -> Confusion:
    confusion = Confusion()
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    batch = {"images": np.broadcast_to(images, (len(labels), 4, 4, 3)), "labels": np.array(labels)}
    outputs = {"predicted": np.array(predicted), "probability": np.array(probability)}
    confusion.add(batch, outputs)
    confusion.class_names = ["cat", "dog", "=1+1", "elk"]
    return confusion


def test_pairs_are_counted_once_for_each_labelled_image():
    labels = [[0, -1], [0, -1], [1, 2], [1, 2], [-1, -1], [2, -1]]
    confusion = added(labels, [0, 1, 2, 0, 3, 0], [0.9, 0.5, 0.9, 0.6, 1.0, 0.8])
    assert confusion.counts == {(0, 0): 1, (0, 1): 1, (2, 2): 1, (1, 0): 1, (2, 0): 1}
    assert [(m.true, m.predicted, m.probability) for m in confusion.mistakes] == [
        (2, 0, 0.8),
        (1, 0, 0.6),
        (0, 1, 0.5),
    ]
    assert [int(mistake.image[0, 0, 0]) for mistake in confusion.mistakes] == [5, 3, 1]
    assert confusion.matrix([0, 2]).tolist() == [[1, 0], [1, 1]]
    # 0 is in three mistakes, 1 in two, 2 in one.
    assert [confusion.most_confused(number) for number in (1, 2, 9)] == [[0], [0, 1], [0, 1, 2]]
    assert confusion.as_csv().splitlines() == [
        "true_class,predicted_class,count",
        *("cat,cat,1", "cat,dog,1", "dog,cat,1", "'=1+1,cat,1", "'=1+1,'=1+1,1"),
    ]


def test_the_most_confident_mistakes_of_all_batches_are_kept():
    count = MAX_MISTAKES + 3
    confusion = added([[0]] * count, [1] * count, [0.5 + n / 100 for n in range(count)])
    batch = {"images": np.full((1, 4, 4, 3), 99, np.uint8), "labels": np.array([[2]])}
    confusion.add(batch, {"predicted": np.array([3]), "probability": np.array([0.995])})
    kept = [int(mistake.image[0, 0, 0]) for mistake in confusion.mistakes]
    assert kept == [99, *range(count - 1, 3, -1)]
    assert confusion.counts == {(0, 1): count, (2, 3): 1}


def test_the_confusions_of_weights_have_the_names_of_the_dataset(colour_folder, colour_model):
    own = ("class2", "class1", "class0")  # the dataset's in another order
    loaded = dataclasses.replace(colour_model(3), class_names=own)
    images = Images(f"folder:{colour_folder}", "test", "", ("resize_crop",), 9, batch_size=8)
    confusion = Confusion()
    (result,) = evaluate_head(loaded, images, confusion)
    assert confusion.class_names == ["class0", "class1", "class2"]
    # Red is class2 here, green class1, blue class0. Each class has a red image, and others its own.
    pairs = {(0, 2): 4, (1, 2): 1, (1, 1): 3, (2, 2): 1, (2, 0): 2}
    assert confusion.counts == pairs
    assert result["correct"] == 4
    assert "top5" not in result
    assert confusion.mistakes[0].image.shape == (8, 8, 3)
    # softmax of ln 6, 0, 0
    assert confusion.mistakes[0].probability == pytest.approx(6 / 8, rel=1e-6)


def test_the_picture_shows_few_classes_with_counts_and_many_without():
    few = draw_confusion(added([[0]] * 3, [1, 0, 2], [0.9, 0.9, 0.8]), "three")
    many = Confusion()
    many.class_names = [f"class {label} $x$" for label in range(40)]
    many.counts.update({(label, (label * 7) % 40): 1 for label in range(40)})
    for png in (few, draw_confusion(many, "forty")):
        assert Image.open(io.BytesIO(png)).size == (1650, 935)
