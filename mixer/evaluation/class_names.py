"""Names of classes: for people to read, and to match a model's labels with a dataset's."""

import unicodedata
from collections.abc import Sequence

from mixer.data.class_list import read_class_list
from mixer.data.imagenet import imagenet_class_names
from mixer.weights.load import LoadedModel
from mixer.weights.shapes import first_names


def find_class_names(loaded: LoadedModel, file: str | None = None) -> Sequence[str]:
    """Returns one name per class, in label order.

    The names come from `file` (one name per line) if it is given, else from the weights, else from
    ImageNet if there are 1,000 classes; otherwise they are "class 0", "class 1" and so on. WordNet
    IDs, which TFDS uses as ImageNet's class names, are replaced by words.

    Raises:
      ValueError: the file is not UTF-8 text, has the wrong number of names, or has those of the
        weights in another order.
      OSError: the file cannot be read.
    """
    num_classes = loaded.model.num_classes
    if file is not None:
        names = read_class_names(file, num_classes)
        _check_order(names, loaded, file)
        return names
    if loaded.class_names is not None:
        in_words = imagenet_class_names()
        return [in_words.get(name, name) for name in loaded.class_names]
    if num_classes == 1000:
        return list(imagenet_class_names().values())
    return [f"class {label}" for label in range(num_classes)]


def read_class_names(file: str, num_classes: int) -> list[str]:
    """Returns the names of `num_classes` classes from a file with one per line.

    Raises:
      ValueError: the file is not UTF-8 text, or has another number of names.
      OSError: the file cannot be read.
    """
    names = read_class_list(file)
    if len(names) != num_classes:
        raise ValueError(
            f"Expected {num_classes:,} class names, one per line in label order, to match the "
            f"weights; got {len(names):,} in {file}. Correct the file."
        )
    return names


def match_classes(
    own: Sequence[str] | None, num_classes: int, names: Sequence[str], dataset: str
) -> tuple[list[int] | None, str]:
    """Returns which logit belongs to each class of a dataset, and in words how they were matched.

    Names decide where both sides have them. 0, 1, ... in order are no names, unless the other side
    has numbers that contradict them. None stands for all logits in their order, "" for what needs
    no words: the same names. Unicode's ways to write an accent are one, and so are a WordNet ID and
    its words.

    Args:
      own: the names of the weights' classes in label order; None: not recorded.
      num_classes: of the weights.
      names: of the dataset's classes in label order.
      dataset: its name, for errors.

    Raises:
      ValueError: the weights have other classes than the dataset, or another number of them.
    """
    if own is not None and list(own) == list(names):
        return None, ""
    columns = {} if own is None else {name: label for label, name in enumerate(map(canonical, own))}
    wanted = [canonical(name) for name in names]
    missing = [name for name, key in zip(names, wanted, strict=True) if key not in columns]
    if own is not None and not missing:
        _check_distinct(own, names, dataset)
        found = [columns[key] for key in wanted]
        if found == list(range(num_classes)):
            return None, ""
        part = f"{len(names):,} of the weights' {num_classes:,} classes"
        return found, f"Labels are matched by name: {part}."
    nameless = _nameless_side(own, names)
    if nameless:
        if num_classes != len(names):
            raise ValueError(
                f"Expected weights with a head for the {len(names):,} classes of {dataset}; got "
                f"{num_classes:,} classes. Fine-tune on {dataset} first, or evaluate the features "
                "with a linear probe: --few_shot=1,5,10,25."
            )
        return None, f"{nameless} no class names: labels are compared by position."
    assert own is not None  # or they would be the side without names
    raise ValueError(
        f"Expected weights with the classes of {dataset}; {len(missing):,} of its {len(names):,} "
        f"are not among theirs.\n  dataset: {first_names(list(names))}\n  weights: "
        f"{first_names(list(own))}\n  missing: {first_names(missing)}\nFine-tune on {dataset} "
        "first, or evaluate the features: --few_shot=1,5,10,25. If the weights' classes have other "
        "names here, list them in label order: --class_names=FILE."
    )


def canonical(name: str) -> str:
    """Returns what equal names have in common: composed accents, words for a WordNet ID."""
    return imagenet_class_names().get(name) or unicodedata.normalize("NFC", name)


def _nameless_side(own: Sequence[str] | None, names: Sequence[str]) -> str:
    """Returns the start of a sentence on the side without names; "" if both have them."""
    if own is None:
        return "The weights have"
    for some, others, side in ((own, names, "The weights have"), (names, own, "The dataset has")):
        numbers = [int(name) if name.isdecimal() else None for name in others]
        agree = numbers == list(range(len(others))) or not any(n is not None for n in numbers)
        if _is_numbered(some) and agree:
            return side
    return ""


def _is_numbered(names: Sequence[str]) -> bool:
    """True if the names are 0, 1, ..., as TFDS writes labels that have no names."""
    return list(names) == [str(label) for label in range(len(names))]


def _check_distinct(own: Sequence[str], names: Sequence[str], dataset: str) -> None:
    for which, some in (("the weights", own), (dataset, names)):
        if len(set(map(canonical, some))) != len(some):
            raise ValueError(
                f"Expected classes of {which} with distinct names; got some that differ only in "
                "how Unicode writes them. Rename one of them."
            )


def _check_order(names: Sequence[str], loaded: LoadedModel, file: str) -> None:
    own = loaded.class_names or ()
    pairs = zip(map(canonical, names), map(canonical, own), strict=bool(own))
    moved = [f"{name} for {other}" for name, other in pairs if name != other]
    if own and moved and {canonical(name) for name in names} == {canonical(name) for name in own}:
        raise ValueError(
            f"Expected the class names in {file} in the order of the weights' labels; got the "
            f"weights' own names in another order: {first_names(moved)}. Leave out --class_names."
        )
