"""Names for the numbers that a model predicts."""

import collections
import importlib.resources
from collections.abc import Sequence

from mixer.weights.load import LoadedModel


def find_class_names(loaded: LoadedModel, file: str | None = None) -> Sequence[str]:
    """Returns a name for each class, in the order of the labels.

    From `file` (one name a line), or as they came with the weights, or for 1,000 classes those of
    ImageNet; otherwise "class 0" and so on. WordNet IDs, TFDS's names of ImageNet's classes, are
    put into words.

    Raises:
      ValueError: the file is not text, or has another number of names than the weights classes.
      OSError: the file cannot be read.
    """
    num_classes = loaded.model.num_classes
    if file is not None:
        return _read_class_names(file, num_classes)
    if loaded.class_names is not None:
        in_words = imagenet_class_names()
        return [in_words.get(name, name) for name in loaded.class_names]
    if num_classes == 1000:
        return list(imagenet_class_names().values())
    return [f"class {label}" for label in range(num_classes)]


def imagenet_class_names() -> dict[str, str]:
    """Returns WordNet ID -> first name of ImageNet's 1,000 classes, in the order of the labels.

    Two classes of the same name have their ID in it.
    """
    text = (
        importlib.resources.files("mixer.data").joinpath("imagenet_classes.txt").read_text("utf-8")
    )
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    first = {wordnet_id: names.partition(",")[0] for wordnet_id, names in rows}
    count = collections.Counter(first.values())
    return {
        wordnet_id: name if count[name] == 1 else f"{name} ({wordnet_id})"
        for wordnet_id, name in first.items()
    }


def _read_class_names(file: str, num_classes: int) -> list[str]:
    from mixer.data.prepare import read_class_names  # brings in TensorFlow

    try:
        names = read_class_names(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected the class names in UTF-8; {file} is not: {error}.") from error
    if len(names) != num_classes:
        raise ValueError(
            f"Expected {num_classes:,} class names, one a line in the order of the labels, as the "
            f"weights have so many classes; got {len(names):,} in {file}."
        )
    return names
