"""Costs by hand, and which slice is the best."""

import pytest

from mixer.rehearsal.sweep import SLICES, best, parse_prices, sweep_row
from mixer.rehearsal.topology import parse_slice


def report(topology: str, hours: float, *, fits: bool = True, **entries: float) -> dict:
    chips = parse_slice(topology).chips
    found = {"topology": topology, "num_chips": chips, "fits": fits, "hbm_limit_gib": 16.0}
    found |= {"num_cores": 2 * chips, "peak_hbm_gib": 4.5 if fits else 17.0, **entries}
    return found | ({"hours": hours} if fits else {})


def test_prices_by_either_spelling():
    assert parse_prices(["v5litepod:1.20", "v6e:2.7", "v3:2"]) == {"v5e": 1.2, "v6e": 2.7, "v3": 2}
    assert parse_prices([]) == {}


@pytest.mark.parametrize(
    "text", ["v5e", "v5e:", "v5e:free", "v5e:0", "v5e:-1", "v5e:nan", "v5e:inf", "v9:1", "v5e-16:1"]
)
def test_a_price_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=rf"Expected --price=GENERATION:PRICE.*got '{text}'"):
        parse_prices([text])


def test_a_generation_has_one_price():
    with pytest.raises(ValueError, match="at most once"):
        parse_prices(["v5e:1", "v5litepod:2"])


def test_what_a_run_costs():
    row = sweep_row(report("v5e-16", 10.0), {"v5e": 1.2})
    assert row["headroom_gib"] == 11.5
    assert row["chip_hours"] == 160.0
    assert row["cost"] == pytest.approx(192.0)
    assert "core_hours" not in row
    row = sweep_row(report("v3-32", 4.6), {"v5e": 1.2})
    assert row["core_hours"] == pytest.approx(147.2)  # 32 cores
    assert row["chip_hours"] == pytest.approx(73.6)
    assert "cost" not in row


def test_what_does_not_fit_has_no_hours():
    row = sweep_row(report("v5e-16", 10.0, fits=False), {"v5e": 1.2})
    assert row["headroom_gib"] == -1.0
    assert not {"chip_hours", "cost", "hours"} & row.keys()


def test_the_fastest_and_the_cheapest():
    prices = {"v5e": 1.0, "v6e": 3.0}
    rows = [
        sweep_row(report("v5e-16", 10.0), prices),  # 160
        sweep_row(report("v5e-64", 2.5), prices),  # 160, but more chips
        sweep_row(report("v6e-16", 4.0), prices),  # 192
        sweep_row(report("v6e-64", 1.0, fits=False), prices),
        sweep_row(report("v3-128", 1.2), prices),  # no price
    ]
    assert best(rows) == {"fastest": "v3-128", "cheapest": "v5e-16"}
    assert best(rows[3:4]) == {}
    assert best(rows[4:]) == {"fastest": "v3-128"}


def test_the_default_slices_exist():
    assert {parse_slice(name).generation for name in SLICES} == {"v3", "v4", "v5e", "v5p", "v6e"}
