"""Refuses weights whose logits say nothing: without a head, or with one that was never trained."""

import numpy as np

from mixer.weights.load import LoadedModel

_INSTEAD = (
    "Fine-tune them first, or evaluate the features with a linear probe: --few_shot=1,5,10,25."
)


def check_head(loaded: LoadedModel, wanted: str = "") -> None:
    """Raises ValueError if the weights have no head, or one that gives every class the same.

    `wanted` continues "Expected weights with a head".
    """
    if loaded.model.num_classes == 0:
        raise ValueError(f"Expected weights with a head{wanted}; got no head. {_INSTEAD}")
    head = loaded.params.get("head")
    if head is not None and not np.any(head["kernel"]) and np.ptp(head["bias"]) == 0:
        raise ValueError(
            f"Expected weights with a trained head; got one of zeros for "
            f"{loaded.model.num_classes:,} classes, which gives all of them the same probability. "
            f"{_INSTEAD}"
        )
