"""Names for the numbers that a model predicts."""

import collections
import importlib.resources
from collections.abc import Sequence

from mixer.weights.restore import LoadedModel


def find_class_names(loaded: LoadedModel, file: str | None = None) -> Sequence[str]:
    """Returns a name for each class, in the order of the labels.

    From `file` (one name a line), or as they came with the weights, or for 1,000 classes those of
    ImageNet; otherwise "class 0" and so on.

    Raises:
      ValueError: the file is not text, or has another number of names than the weights classes.
      OSError: the file cannot be read.
    """
    num_classes = loaded.model.num_classes
    if file is not None:
        return _read_class_names(file, num_classes)
    if loaded.class_names is not None:
        return loaded.class_names
    if num_classes == 1000:
        return imagenet_class_names()
    return [f"class {label}" for label in range(num_classes)]


def imagenet_class_names() -> list[str]:
    """Returns WordNet's first name of each of the 1,000 classes, with its ID where two share it."""
    text = (
        importlib.resources.files("mixer.data").joinpath("imagenet_classes.txt").read_text("utf-8")
    )
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    first = [names.partition(",")[0] for _, names in rows]
    count = collections.Counter(first)
    return [
        name if count[name] == 1 else f"{name} ({wordnet_id})"
        for name, (wordnet_id, _) in zip(first, rows, strict=True)
    ]


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
