"""What to rent: a run rehearsed on slices of several generations, with its hours and its cost."""

from collections.abc import Sequence
from typing import Any

from mixer.rehearsal.topology import GENERATIONS, parse_slice

# A small and a larger slice of each generation that is rented today, and the paper's.
SLICES = (
    *("v3-32", "v3-128", "v4-32", "v4-128", "v5e-16", "v5e-64"),
    *("v5p-16", "v5p-64", "v6e-16", "v6e-64"),
)
_CORES_COUNT = ("v2", "v3")  # they are rented by the chip, too, but named and reported by the core

Row = dict[str, Any]


def parse_prices(texts: Sequence[str]) -> dict[str, float]:
    """Returns the price of a chip-hour by generation, from texts such as "v5e:1.20".

    Raises:
      ValueError: a text is no such pair, or a generation is unknown or has two prices.
    """
    prices: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition(":")
        generation = GENERATIONS.get(name, "")
        try:
            price = float(number)
        except ValueError:
            price = 0.0
        if not generation or generation in prices or not 0 < price < float("inf"):
            raise ValueError(
                f"Expected --price=GENERATION:PRICE,... with each of {', '.join(GENERATIONS)} at "
                f"most once and a price per chip-hour above 0, such as v5e:1.20; got {text!r}."
            )
        prices[generation] = price
    return prices


def sweep_row(report: Row, prices: dict[str, float]) -> Row:
    """Returns a report of `rehearse_training` with its costs.

    Adds `headroom_gib`, negative if the step does not fit; if it has hours, `chip_hours`, on TPU v2
    and v3 `core_hours`, and `cost` if the generation has a price.
    """
    row = report | {"headroom_gib": report["hbm_limit_gib"] - report["peak_hbm_gib"]}
    if "hours" not in report:
        return row
    generation = parse_slice(report["topology"]).generation
    row["chip_hours"] = report["hours"] * report["num_chips"]
    if generation in _CORES_COUNT:
        row["core_hours"] = report["hours"] * report["num_cores"]
    if generation in prices:
        row["cost"] = row["chip_hours"] * prices[generation]
    return row


def best(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the slices that are `fastest` and, if any has a price, `cheapest`, if any has hours.

    If two are equal, it is the one with fewer chips.
    """
    fitting = sorted((row for row in rows if "hours" in row), key=lambda row: row["num_chips"])
    priced = [row for row in fitting if "cost" in row]
    found = {}
    if fitting:
        found["fastest"] = min(fitting, key=lambda row: row["hours"])["topology"]
    if priced:
        found["cheapest"] = min(priced, key=lambda row: row["cost"])["topology"]
    return found
