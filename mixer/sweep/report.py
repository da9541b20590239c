"""What a sweep has found so far: `sweep.md`, `sweep.json` and `sweep.png` in its folder."""

import json
import statistics
from typing import Any

from mixer.sweep.picture import draw
from mixer.sweep.plan import Outcomes, Sweep, winner


def write(sweep: Sweep, outcomes: Outcomes) -> str:
    """Writes the three files and returns the text of the first."""
    summary = summarize(sweep, outcomes)
    text = table(summary)
    (sweep.workdir / "sweep.md").write_text(text)
    (sweep.workdir / "sweep.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(summary).savefig(sweep.workdir / "sweep.png", dpi=100)
    return text


def summarize(sweep: Sweep, outcomes: Outcomes) -> dict[str, Any]:
    """Returns the results as JSON holds them.

    `first_seed` of a combination has the two metrics of that run; `mean` and `std` (None for one
    seed) are over the seeds of its finished runs, the standard deviation with n - 1. All are
    fractions in [0, 1]. A combination without a finished first run has none of them.
    """
    best = winner(sweep, outcomes)
    metrics = (sweep.select, sweep.report)
    rows = []
    for name, overrides in sweep.combinations.items():
        seeds = [seed for seed in sweep.seeds if outcomes.get((name, seed))]
        failed = [seed for seed in sweep.seeds if outcomes.get((name, seed), {}) is None]
        row = {
            "name": name,
            "overrides": overrides,
            "chosen": name == best,
            "seeds": seeds,
            "failed_seeds": failed,
        }
        results = [outcome for seed in seeds if (outcome := outcomes[name, seed])]
        if sweep.seeds[0] in seeds:
            values = {key: [result[key] for result in results] for key in metrics}
            row["first_seed"] = {key: values[key][0] for key in metrics}
            row["mean"] = {key: statistics.fmean(values[key]) for key in metrics}
            row["std"] = {
                key: statistics.stdev(values[key]) if len(seeds) > 1 else None for key in metrics
            }
        rows.append(row)
    return {
        "config": sweep.config_file,
        "overrides": sweep.overrides,
        "select": sweep.select,
        "report": sweep.report,
        "seeds": list(sweep.seeds),
        "chosen": best,
        "combinations": rows,
    }


def table(summary: dict[str, Any]) -> str:
    """Returns a Markdown table that reads well on a terminal, and the result in a sentence."""
    select, report, first = summary["select"], summary["report"], summary["seeds"][0]
    header = ["combination", f"{select}, seed {first}", f"{report}, mean ± std", "seeds", ""]
    lines = [header, *(_cells(row, select, report) for row in summary["combinations"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    text = "".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |\n"
        for line in lines
    )
    for row in summary["combinations"]:
        if row["chosen"]:
            text += (
                f"\nChosen by {select} of seed {first}: {row['name']}. Its {report}: "
                f"{_mean(row, report)} (mean ± standard deviation of {len(row['seeds'])} of "
                f"{len(summary['seeds'])} seeds).\n"
            )
    return text


def _cells(row: dict[str, Any], select: str, report: str) -> list[str]:
    notes = ["**chosen**"] if row["chosen"] else []
    notes += [f"failed: seed {seed}" for seed in row["failed_seeds"]]
    if "mean" not in row:
        values = ["-", "-"]
    else:
        values = [f"{row['first_seed'][select]:.2%}", _mean(row, report)]
    seeds = ", ".join(str(seed) for seed in row["seeds"])
    return [row["name"], *values, seeds or "-", ", ".join(notes)]


def _mean(row: dict[str, Any], metric: str) -> str:
    std = row["std"][metric]
    return f"{row['mean'][metric]:.2%} ± " + ("n/a" if std is None else f"{std:.2%}")
