"""Human-readable class names for a model's labels."""

import collections
import importlib.resources
from collections.abc import Sequence

from mixer.weights.load import LoadedModel


def find_class_names(loaded: LoadedModel, file: str | None = None) -> Sequence[str]:
    """Returns one name per class, in label order.

    The names come from `file` (one name per line) if it is given, else from the weights, else from
    ImageNet if there are 1,000 classes; otherwise they are "class 0", "class 1" and so on. WordNet
    IDs, which TFDS uses as ImageNet's class names, are replaced by words.

    Raises:
      ValueError: the file is not UTF-8 text, or has the wrong number of names.
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
    """Maps WordNet IDs to the first name of each of ImageNet's 1,000 classes, in label order.

    Names shared by two classes have the ID appended.
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
    from mixer.data.prepare import read_class_names  # imports TensorFlow

    try:
        names = read_class_names(file)
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected {file} to be UTF-8 text; got {error}. Re-save it.") from error
    if len(names) != num_classes:
        raise ValueError(
            f"Expected {num_classes:,} class names, one per line in label order, to match the "
            f"weights; got {len(names):,} in {file}. Correct the file."
        )
    return names
