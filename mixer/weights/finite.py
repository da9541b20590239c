"""Refuses weights that are not finite, by name: they would evaluate to a plausible number."""

from collections.abc import Mapping

import numpy as np

from mixer.weights.shapes import first_names


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError if a value is NaN or infinite; names the arrays and counts the values."""
    found = {
        name: array.size - int(np.count_nonzero(np.isfinite(array)))
        for name, array in arrays.items()
    }
    bad = [f"{name} ({n:,} of {arrays[name].size:,})" for name, n in found.items() if n]
    if bad:
        raise ValueError(
            f"Expected finite weights; got NaN or infinity in {len(bad)} of {len(arrays)} arrays: "
            f"{first_names(bad)}. Use weights from before the training diverged. In float16, "
            "values beyond 65,504 overflow: export such weights as float32 or bfloat16."
        )
