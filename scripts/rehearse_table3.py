"""Estimates the inference throughput of all models of the paper's Table 3 on a TPU slice.

python scripts/rehearse_table3.py --records=docs/table3_throughput.jsonl

Each model is compiled for the slice at several batch sizes, without a TPU; the fastest counts, as
in the paper. The estimates are appended to the file of records as they come. An interrupted run
continues where it was; with a complete file the table alone is printed. A compilation takes up to
several minutes. Requires libtpu: pip install -r requirements-tpu.txt.
"""

import os
import pathlib
from typing import Any

from absl import flags

from mixer.runtime import command

# As in scripts/rehearse_tpu.py.
os.environ["JAX_PLATFORMS"] = "cpu"
for _name in ("TF_CPP_MIN_LOG_LEVEL", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL"):
    os.environ.setdefault(_name, "3")

_RECORDS = command.path_flag("records", None, "File of estimates, JSON lines.", required=True)
_TOPOLOGY = flags.DEFINE_string("topology", "v3-8", "Slice, by its Cloud TPU name.")
_BATCH = flags.DEFINE_list("batch_per_core", ["32", "64"], "Batch sizes to compile.")


def _outcome(record: dict[str, Any]) -> str:
    if not record["fits"]:
        return "too large"
    speed = record.get("images_per_s_per_core")
    return f"{speed:,.0f} img/s" if speed else "no estimate from the compiler"


def main() -> None:
    batch_sizes = command.positive_integers(_BATCH)

    # After flag parsing, since JAX takes seconds.
    from mixer.rehearsal import table3
    from mixer.rehearsal.topology import parse_slice

    path = pathlib.Path(_RECORDS.value)
    topology = str(parse_slice(_TOPOLOGY.value))
    for record in table3.rehearse_table3(path, topology, batch_sizes):
        print(
            f"{_title(record)}, {record['batch_per_core']} images per core: " + _outcome(record),
            flush=True,
        )
    records = [r for r in table3.read_records(path) if r["topology"] == topology]
    best = table3.best_records(records)
    print(f"\n{'img/s/core':20}{'estimate':>10}{'paper':>10}{'ratio':>8}  batch per core")
    for row in best:
        estimate, paper = row["images_per_s_per_core"], row["paper"]
        print(
            f"{_title(row):20}{estimate:10,.0f}{paper:10,}{estimate / paper:8.2f}"
            f"  {row['batch_per_core']}"
        )
    print(f"\nrank correlation with the paper: {table3.rank_correlation(best):.3f}")


def _title(record: dict) -> str:
    return f"{record['model']} at {record['image_size']}"


if __name__ == "__main__":
    command.run(main)
