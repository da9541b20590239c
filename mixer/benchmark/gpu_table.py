"""The Markdown table of a GPU report."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mixer.benchmark.timing import four_digits

PEERS = {"plain_flax": "plain flax", "timm": "timm", "timm_compiled": "timm compiled"}
_COLUMNS = ("model", "mode", "images/s", "of the peak", "batch", "peak memory", "largest batch")


@dataclasses.dataclass
class Row:
    """What was measured of a model in a mode; a text in place of a result says why there is none.

    Attributes:
      ours: rows of `measure_batch_size`, in ascending order of the batch, of those that fit.
      peers: per key of `PEERS`, the row of `tests.peers`.
      peer_batch: images per batch beside the peers.
    """

    model: str
    mode: str  # "train" or "infer"
    ours: list[Mapping[str, Any]] | str = "no time"
    peers: dict[str, dict[str, Any] | str] = dataclasses.field(default_factory=dict)
    peer_batch: int | None = None

    @property
    def title(self) -> str:
        return f"{self.model} {'training' if self.mode == 'train' else 'inference'}"


def markdown(
    rows: Sequence[Row],
    *,
    description: Mapping[str, str],
    peak_tflops: float | None,
    cifar: tuple[str, str] | None,
    unfinished: str,
) -> str:
    """Returns the report: a description, the table, and how to read it.

    Args:
      rows: in the order of the table.
      description: of the machine, its name -> value.
      peak_tflops: of the largest matrix product measured, None if there was none.
      cifar: the model and the cell of its row, None if it was not asked for.
      unfinished: what was left out, mostly for lack of time, "" if nothing was.
    """
    header = (*_COLUMNS, *(f"{title} (ours / it)" for title in PEERS.values()), "batch beside them")
    lines = [
        "; ".join(f"{name} {value}" for name, value in description.items()) + ".",
        "",
        _line(header),
        "|" + "---|" * len(header),
        *(_line(_cells(row, peak_tflops)) for row in rows),
    ]
    if cifar:
        model, cell = cifar
        lines.append(_line([model, "to 90% test top-1", cell, *["-"] * (len(header) - 3)]))
    peak = "" if peak_tflops is None else f", {four_digits(peak_tflops)} TFLOP/s here"
    lines += [
        "",
        "images/s: with the best batch measured, median. Of the peak: products of the model alone, "
        f"as a share of the fastest large matrix product measured{peak}. Largest batch: the "
        "greatest power of two measured that fits the memory that JAX takes by default. Peers: "
        "their images/s, and in brackets the ratio of ours to theirs in alternating windows of one "
        "run, all without regularisation.",
    ]
    if unfinished:
        lines += ["", f"Left out: {unfinished}."]
    return "\n".join(lines) + "\n"


def _cells(row: Row, peak_tflops: float | None) -> list[str]:
    mode = "training" if row.mode == "train" else "inference"
    peers = [_peer(row.peers.get(peer, "no time")) for peer in PEERS]
    peer_batch = str(row.peer_batch or "-")
    if isinstance(row.ours, str):
        return [row.model, mode, row.ours, "-", "-", "-", "-", *peers, peer_batch]
    best = max(row.ours, key=_images_per_s)
    memory = best["peak_memory_gib"]
    return [
        row.model,
        mode,
        four_digits(_images_per_s(best)),
        "-" if not peak_tflops else _share(best["tflops_per_device"] / peak_tflops),
        str(best["batch_size"]),
        "-" if memory is None else f"{memory:.2f} GiB",
        str(max(found["batch_size"] for found in row.ours)),
        *peers,
        peer_batch,
    ]


def _images_per_s(found: Mapping[str, Any]) -> float:
    return float(found["images_per_s_per_core"]["median"])


def _share(share: float) -> str:
    return f"{share:.1%}" if share <= 1 else f"not credible: {share:.0%}"


def _peer(found: Mapping[str, Any] | str) -> str:
    if isinstance(found, str):
        return found
    images_per_s, ratio = found["images_per_s"]["median"], found["ratio"]["median"]
    return f"{four_digits(images_per_s)} ({ratio:.2f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |"
