"""The names of ImageNet's 1,000 classes, which the published weights for it predict."""

import collections
import functools
import importlib.resources


@functools.cache
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
