"""The graph in miniature: the same kinds of runs and edges, of tiny models on the digits."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from mixer.config import to_plain
from mixer.paper.graph import (
    Absent,
    Item,
    Mean,
    Run,
    Setting,
    Size,
    Source,
    Throughput,
)
from mixer.reproduction.study import read_config, with_overrides

_SEEDS = 2
_DATA_SETS = 2  # of five
# What a run overrides for the sake of its data; the steps are those of the shrunk config.
_OVERRIDES = {
    "few_shot.dataset": "digits",
    "few_shot.train_split": "train[70%:]",
    "few_shot.test_split": "test",
    "model.halved_after": (0,),
}


def shrink_items(items: Mapping[str, Item]) -> dict[str, Item]:
    """Returns all tables and figures in miniature. Runs that become equal are one."""
    known: dict[str, Run] = {}

    @functools.cache
    def shrunk(run: Run) -> Run:
        small = dataclasses.replace(shrink(run), start=run.start and shrunk(run.start))
        return known.setdefault(_content(small), small)

    def shrunk_source(source: Source) -> Source:
        if isinstance(source, Mean):
            return Mean(tuple(map(shrunk_source, source.scores[:_DATA_SETS])))  # type: ignore
        if isinstance(source, Throughput):
            return dataclasses.replace(source, config=_tiny(source.config))
        if isinstance(source, Absent | Size | Setting):
            return source
        small = dataclasses.replace(source, run=shrunk(source.run))
        if getattr(source, "dataset", ""):
            return dataclasses.replace(small, dataset="digits", split="test")  # type: ignore
        return small

    return {
        name: dataclasses.replace(
            item,
            rows={
                row: tuple(
                    dataclasses.replace(cell, source=shrunk_source(cell.source)) for cell in cells
                )
                for row, cells in item.rows.items()
            },
        )
        for name, item in items.items()
    }


def shrink(run: Run) -> Run:
    """Returns a run in miniature; what it starts from stays."""
    changes = {
        key: _OVERRIDES.get(key, value) for key, value in run.overrides if key != "num_steps"
    }
    if changes.get("model.name") == "permuted_bit":
        changes["model.permuted_patch_size"] = 4  # of 16 pixels, as 16 of 224 are the paper's
    return dataclasses.replace(
        run,
        config=_tiny(run.config),
        overrides=tuple(changes.items()),
        seeds=min(run.seeds, _SEEDS),
        published="",
    )


def _tiny(config: str) -> str:
    return f"configs/miniature.py:{config.removeprefix('configs/')}"


def _content(run: Run) -> str:
    """Returns all that a run depends on, whatever its name."""
    config: dict[str, Any] = to_plain(with_overrides(read_config(run.config), dict(run.overrides)))
    del config["init_from"]
    start = run.start.name if run.start else ""
    return json.dumps([config, start, run.seeds, run.swept], sort_keys=True)
