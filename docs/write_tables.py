"""Writes the generated tables of README.md and docs/: python docs/write_tables.py [--check].

A generated table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. Measured
numbers come from docs/results.json and docs/miniature.csv, rehearsed ones from
docs/rehearsals.jsonl and docs/table3_throughput.jsonl, the paper's from mixer/paper/reference.py,
config keys from mixer/config/keys.py, published weights from mixer/weights/published.py. --check
writes nothing and fails if a table is out of date.
"""

import argparse
import csv
import json
import pathlib
import re
import sys
from collections.abc import Callable

from mixer.config import keys as config_keys
from mixer.config.key import Key
from mixer.paper import reference
from mixer.paper.graph import CoreDays, Run, jobs_of, jobs_of_items
from mixer.paper.items import all_items
from mixer.rehearsal import table3
from mixer.rehearsal.topology import GENERATIONS, parse_slice
from mixer.reproduction.report import NO_ACCURACIES
from mixer.reproduction.study import Study
from mixer.weights.published import CATALOGUE

ROOT = pathlib.Path(__file__).parent.parent
PAGES = (
    "README.md",
    *(
        f"docs/{n}.md"
        for n in ("architecture", "configs", "weights", "performance", "reproduction")
    ),
)
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def results() -> list[str]:
    """Returns what was measured or rehearsed, next to the Mixer rows of the paper's Table 3."""
    data = json.loads((ROOT / "docs/results.json").read_text())
    lines = _header("config", "hardware", "training time", "ours", "paper")
    for run in data["measured"]:
        ours = f"{run['correct'] / run['count']:.2%} on {run['dataset']}"
        time = f"{run['train_seconds']:.0f} s" if run["train_seconds"] else "not recorded"
        lines.append(_row(f"`{run['config']}`", run["hardware"], time, ours, "-"))
    rehearsals = {run["config"]: run for run in data["rehearsed"]}
    rows = [row for row in reference.table3_rows() if row.model.startswith("Mixer-")]
    return lines + [_table3_row(row, rehearsals) for row in rows]


def _table3_row(row: reference.Result, rehearsals: dict[str, dict]) -> str:
    config = reference.pretraining_config(row.pretrain, row.model, row.pretrain_epochs)
    run = rehearsals.get(config) if row.image_size == 224 else None
    hardware = f"TPU {run['topology']}" if run else "-"
    time = f"{run['core_days']:,.4g} core-days, estimated" if run else "-"
    paper = f"{row.imagenet_top1:.2f}%, {row.tpu_v3_core_days:,} core-days"
    pixels = f", at {row.image_size} pixels" if row.image_size != 224 else ""
    return _row(f"`{config}`{pixels}", hardware, time, "not run", paper)


def sizes() -> list[str]:
    """Returns the sizes of Table 1."""
    names = ("size", "`num_blocks`", "`patch_size`", "`hidden_dim`", "`tokens_mlp_dim`")
    lines = _header(*names, "`channels_mlp_dim`", "tokens", "parameters without the head")
    for name, row in reference.TABLE1.items():
        fields = row.num_blocks, row.patch_size, row.hidden_dim, row.tokens_mlp_dim
        more = row.channels_mlp_dim, row.sequence_length, f"{row.params_exact_without_head:,}"
        lines.append(_row(name, *fields, *more))
    return lines


def published() -> list[str]:
    """Returns the published weights."""
    lines = _header("name", "MiB", "pixels", "trained on", "classes", "ImageNet top-1")
    for name, row in CATALOGUE.items():
        mebibytes = "-" if row.mebibytes is None else f"{row.mebibytes:.2f}"
        top1 = "-" if row.top1 is None else f"{row.top1[0]:g}% ({row.top1[1]})"
        trained_on, classes = row.data
        pixels = row.recipe.image_size
        lines.append(_row(f"`{name}`", mebibytes, pixels, trained_on, f"{classes:,}", top1))
    return lines


def reproduction() -> list[str]:
    """Returns the tables and figures of the paper with what each of them takes."""
    study = Study(ROOT)
    lines = _header(
        "name", "what", "cells", "of them to run", "trainings", "data", "paper's core-days"
    )
    for name, item in all_items().items():
        runs = [job for job in jobs_of_items([item]) if isinstance(job, Run)]
        trainings = sum(map(study.count, runs))
        data = dict.fromkeys(study.config(run).dataset for run in runs)
        cells = [cell for _, _, cell in item.cells()]
        paper = {c.source.run: c.paper for c in cells if isinstance(c.source, CoreDays)}
        shown = f"{sum(paper.values()):,}" if paper else "-"
        to_run = sum(bool(jobs_of(cell.source)) for cell in cells)
        places = ", ".join(data) or "-"
        lines.append(_row(f"`{name}`", item.title, len(cells), to_run, trainings, places, shown))
    return lines


def miniature() -> list[str]:
    """Returns what a run of everything in miniature has reported, by table and figure."""
    with (ROOT / "docs/miniature.csv").open() as file:
        cells = [line for line in csv.DictReader(file) if line["item"] != "item"]
    lines = _header("name", "done", "not run", "nothing to run", "accuracies, miniature")
    for name in all_items():
        own = [cell for cell in cells if cell["item"] == name]
        states = [cell["state"] for cell in own]
        counts = [sum(state == wanted for state in states) for wanted in ("done", "not run")]
        trained = name not in ("table1", "table4")
        shown = [
            float(cell["ours"])
            for cell in own
            if trained and cell["ours"] and cell["column"] not in NO_ACCURACIES
        ]
        scores = f"{min(shown):.1f}% to {max(shown):.1f}%" if shown else "-"
        lines.append(_row(f"`{name}`", *counts, len(own) - sum(counts), scores))
    return lines


def _keys(keys: dict[str, Key]) -> Callable[[], list[str]]:
    """Returns what writes a table of config keys."""

    def lines() -> list[str]:
        found = _header("key", "type", "values", "what it does", "source, or *free*")
        for name, key in keys.items():
            names, _, note = key.values.partition("; ")
            names = ", ".join(f"`{name}`" for name in key.names()) or names
            values = ", ".join(filter(None, [names, note]))
            families = ", ".join(f"`{family}`" for family in key.needed_by)
            optional = "*optional*" + (f", but needed by {families}" if families else "")
            meaning = f"{optional}: {key.meaning}" if key.is_optional else key.meaning
            source = "*free*" if key.is_free else key.source
            found.append(_row(f"`{name}`", key.type.__name__, values, meaning, source))
        return found

    return lines


def throughput() -> list[str]:
    """Returns the estimated inference throughput of Table 3's models next to the paper's."""
    names = ("model", "pixels", "estimate, images/s/core", "images per core", "paper")
    lines = _header(*names, "estimate / paper")
    for row in table3.best_records(table3.read_records(ROOT / "docs/table3_throughput.jsonl")):
        speed, paper = row["images_per_s_per_core"], row["paper"]
        cells = row["model"], row["image_size"], f"{speed:,.0f}", row["batch_per_core"]
        lines.append(_row(*cells, f"{paper:,}", f"{speed / paper:.2f}"))
    return lines


def generations() -> list[str]:
    """Returns what the configs' steps take on each generation of TPUs, by their last rehearsal."""
    found: dict[str, dict[str, dict]] = {}
    for line in (ROOT / "docs/rehearsals.jsonl").read_text().splitlines():
        row = json.loads(line)
        # As the config and the programs are, not what was tried or was before.
        options = f"--config={row['config']} --topology={row['topology']} --json"
        if row["command"] == f"python scripts/rehearse_tpu.py {options}" and "note" not in row:
            found.setdefault(row["config"], {})[parse_slice(row["topology"]).generation] = row
    names = list(dict.fromkeys(GENERATIONS.values()))
    lines = _header("config", *names)
    for config, rows in found.items():
        cells = (_step(rows[name]) if name in rows else "-" for name in names)
        lines.append(_row(f"`{config.removeprefix('configs/')}`", *cells))
    return lines


def _step(row: dict) -> str:
    share = row["bound_step_ms"] / row["estimated_step_ms"]
    by = "" if row["estimated_by"] == "compiler" else " r"
    step = f"{row['estimated_step_ms']:.1f} ms{by}, {share:.2f}"
    return f"{row['topology']}: {step}, {row['peak_hbm_gib']:.1f} GiB"


TABLES: dict[str, Callable[[], list[str]]] = {
    "results": results,
    "sizes": sizes,
    "published": published,
    "reproduction": reproduction,
    "miniature": miniature,
    "throughput": throughput,
    "generations": generations,
    "data_keys": _keys(config_keys.DATA),
    "training_keys": _keys(config_keys.TRAINING),
    "model_keys": _keys(config_keys.MODEL),
    "operation_keys": _keys(config_keys.OPERATION),
}


def updated(text: str) -> str:
    """Returns the page with its tables as they are today; KeyError for a name not in `TABLES`."""
    return _TABLE.sub(lambda m: m[1] + "\n".join(TABLES[m[2]]()) + "\n" + m[3], text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Fail if a table is out of date.")
    check = parser.parse_args().check
    for path in (ROOT / name for name in PAGES):
        old = path.read_text()
        new = updated(old)
        if old != new and check:
            sys.exit(f"A table of {path} is out of date. Run: python docs/write_tables.py")
        path.write_text(new)


def _header(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
