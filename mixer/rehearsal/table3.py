"""The throughput column of the paper's Table 3, rehearsed: its models compiled for a TPU slice.

Records are JSON lines, one per model, image size and batch size. A run that was interrupted goes on
with those that its file lacks.
"""

import datetime
import importlib.metadata
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mixer.models import build_model, named
from mixer.paper.reference import table3_rows
from mixer.rehearsal.rehearse import rehearse_forward_pass

_KEPT = (
    *("fits", "estimated_step_ms", "estimated_by", "bound_step_ms"),
    *("roofline_step_ms", "images_per_s_per_core", "peak_hbm_gib"),
)
_KEY = ("model", "image_size", "topology", "batch_per_core")

Record = dict[str, Any]


def paper_throughput() -> dict[tuple[str, int], int]:
    """Returns the images/s/core of Table 3 by model and image size, such as ("ViT-L/16", 512)."""
    return {(row.model, row.image_size): row.img_per_sec_per_core for row in table3_rows()}


def rehearse_table3(
    path: pathlib.Path, topology: str, batch_sizes: Sequence[int]
) -> Iterator[Record]:
    """Compiles what the file lacks and appends it; yields each new record.

    `batch_sizes` are in images per device. Models are in bfloat16 with 1000 classes.

    Raises:
      ValueError: a line of the file is no record, or as `slice_devices`.
      OSError: the file cannot be read or written.
    """
    done = {tuple(record[name] for name in _KEY) for record in read_records(path)}
    for model, image_size in paper_throughput():
        for batch_size in batch_sizes:
            if (model, image_size, topology, batch_size) in done:
                continue
            record = _rehearse(model, image_size, topology, batch_size)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            yield record


def read_records(path: pathlib.Path) -> list[Record]:
    """Returns the records of a file, none if it does not exist; ValueError if a line is none."""
    records = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            record = json.loads(line)
            if not {*_KEY, "fits"} <= record.keys():
                raise ValueError
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"Expected {path} to hold records of this program, one a line; got {line[:40]!r} "
                f"in line {number}. Delete that line, or give another file."
            ) from error
        records.append(record)
    return records


def best_records(records: Sequence[Record]) -> list[Record]:
    """Returns the fastest record of each model and size, with `paper`, in the order of Table 3."""
    best = []
    for (model, image_size), paper in paper_throughput().items():
        ours = [r for r in records if (r["model"], r["image_size"]) == (model, image_size)]
        estimated = [record for record in ours if "images_per_s_per_core" in record]
        if estimated:
            fastest = max(estimated, key=lambda record: record["images_per_s_per_core"])
            best.append({**fastest, "paper": paper})
    return best


def rank_correlation(best: Sequence[Record]) -> float:
    """Returns Spearman's correlation of the estimates with the paper, which has no ties."""
    values = [[row["images_per_s_per_core"] for row in best], [row["paper"] for row in best]]
    ranks = np.array([np.argsort(np.argsort(column)) for column in values], float)
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _rehearse(model: str, image_size: int, topology: str, batch_per_core: int) -> Record:
    name, variant = named(model)
    # Table 3's ResNets are trained with Adam, so most likely version 1 (mixer/models/bit.py).
    fields = {"version": "v1"} if name == "bit" else {}
    built = build_model(name, variant, num_classes=1000, dtype="bfloat16", **fields)
    report = rehearse_forward_pass(built, image_size, topology, batch_per_core)
    return {
        "model": model,
        "image_size": image_size,
        "topology": topology,
        "batch_per_core": batch_per_core,
        **{name: report[name] for name in _KEPT if name in report},
        "software": f"jax {_version('jax')}, libtpu {_version('libtpu')}",
        "date": datetime.date.today().isoformat(),
    }


def _version(package: str) -> str:
    return importlib.metadata.version(package)
