"""How the cost of an image grows with the number of tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Returns p of the power law `cost = factor * size**p`, fitted to the logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(costs), 1)
    return float(slope)


def token_scaling(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the exponents of time and FLOPs per image in the number of tokens.

    Takes the results of `measure_throughput` for several image sizes, each at its best batch size;
    None if fewer than two of them have one.

    Source: section 2, "linear in the number of input patches".
    """
    fitting = [result for result in results if result["best"]]
    if len(fitting) < 2:
        return None
    tokens = [result["tokens"] for result in fitting]
    seconds = [1 / result["best"]["images_per_s_per_core"]["median"] for result in fitting]
    gflops = [result["gflops_per_image"] for result in fitting]
    return {
        "tokens": tokens,
        "time_exponent": fitted_exponent(tokens, seconds),
        "flops_exponent": fitted_exponent(tokens, gflops),
    }
