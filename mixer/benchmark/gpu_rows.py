"""Measures the rows of a GPU report, each in a process of its own that has the whole card."""

import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mixer.benchmark.batches import Measured, measure_batches
from mixer.benchmark.children import NotMeasuredError, minutes_to_accuracy, run_json
from mixer.benchmark.gpu_table import PEERS, Row, markdown
from mixer.benchmark.timing import is_out_of_memory

# In the order of the table; and in that in which they are measured, as time may run out.
MODELS = ("S/16", "B/16", "L/16", "ViT-B/16")
_FIRST = ("B/16", "L/16", "S/16", "ViT-B/16")
_SMALL_MODELS = ("S/32", "ViT-Ti/16")
_MODES = ("train", "infer")
_AT_MOST = 300.0  # seconds for one process, which may hang
_MOST_BESIDE_PEERS = 256  # images; more do not change the ratios
_ACCURACY = 0.9


class Report:
    """The rows, and the file that has what is measured so far."""

    def __init__(
        self,
        environment: Mapping[str, str],
        description: Mapping[str, str],
        limit_gib: float,
        *,
        output: pathlib.Path,
        minutes: float,
        with_peers: bool,
        cifar: str | None,
        miniature: bool,
    ) -> None:
        """Takes what `describe_machine` returns, and the flags of the report."""
        self._start = time.monotonic()
        self._environment, self._description = environment, description
        self._limit_gib, self._output, self._minutes = limit_gib, output, minutes
        self._miniature, self._dataset = miniature, cifar
        models, first = (_SMALL_MODELS,) * 2 if miniature else (MODELS, _FIRST)
        self._rows = {(model, mode): Row(model, mode) for model in models for mode in _MODES}
        self._order = [self._rows[model, mode] for model in first for mode in _MODES]
        self._peers = list(PEERS) if with_peers else ["plain_flax"]
        for row in self._order:
            row.peers = {peer: "no time" if peer in self._peers else "-" for peer in PEERS}
        self._peak_tflops: float | None = None
        self._left_out: list[str] = []  # beside cells without a result
        size = "0.15M" if miniature else "0.7M"
        self._cifar = (f"{size},{cifar}", "no time") if cifar else None

    def measure(self) -> str:
        """Measures in the order of what matters most; returns the text of the report."""
        share = 0.5 if self._cifar else 1.0
        for row in self._order:
            self._measure_ours(row, share)
        for row in self._order:
            self._measure_peers(row, share)
        if self._cifar:
            self._measure_cifar(self._cifar[0])
        if all(isinstance(row.ours, str) for row in self._order):
            raise ValueError(
                f"Expected to measure a model; got: {self._order[0].ours}. If that is no time, "
                "give more --minutes."
            )
        return self._text()

    def _left(self, share: float = 1.0) -> float:
        return self._start + share * 60 * self._minutes - time.monotonic()

    def _measure_ours(self, row: Row, share: float) -> None:
        def measure(batch: int) -> dict[str, Any] | None:
            try:
                report = self._json(["scripts/benchmark.py", f"--batch_sizes={batch}"], row, share)
            except NotMeasuredError as error:
                if str(error) != "out of memory":
                    raise
                return None
            self._peak_tflops = max(self._peak_tflops or 0.0, report["matrix_tflops"])
            found = report["results"][0]["rows"][0]
            return None if "out_of_memory" in found else found

        first, most = (2, 2) if self._miniature else (64, 2048)
        measured: list[Measured] = []
        said = "done"
        try:
            for found in measure_batches(
                measure, first=first, most=most, limit_gib=self._limit_gib
            ):
                measured.append(found)
                row.ours = measured
                self._write()
        except NotMeasuredError as error:
            said = str(error)
        if not measured:
            row.ours = said = said if said != "done" else "out of memory"
        elif said != "done":
            self._left_out.append(f"{row.title} with larger batches ({said})")
        batches = ", ".join(str(found["batch_size"]) for found in measured)
        self._say(f"{row.title}, batch {batches or '-'}: {said}")

    def _measure_peers(self, row: Row, share: float) -> None:
        if isinstance(row.ours, str):
            if row.ours != "no time":
                row.peers = dict.fromkeys(PEERS, "-")
            return
        largest = max(found["batch_size"] for found in row.ours)
        # All have a share of the memory at the same time, and timm takes more of it than ours.
        row.peer_batch = min(_MOST_BESIDE_PEERS, max(1, largest // 4))
        self._beside(row, self._peers, share)
        short = [peer for peer in self._peers if row.peers[peer] == "out of memory"]
        for peer in short if len(self._peers) > 1 else []:  # alone, it has more memory
            self._beside(row, [peer], share)

    def _beside(self, row: Row, peers: Sequence[str], share: float) -> None:
        arguments = ["-m", "tests.peers", f"--peers={','.join(peers)}"]
        try:
            report = self._json([*arguments, f"--batch_size={row.peer_batch}"], row, share)
        except NotMeasuredError as error:
            row.peers |= dict.fromkeys(peers, str(error))
        else:
            row.peers |= {found["peer"]: found for found in report["peers"]}
            row.peers |= {peer: _skipped(reason) for peer, reason in report["skipped"].items()}
        self._write()
        for peer in peers:
            found = row.peers[peer]
            self._say(
                f"{row.title} beside {PEERS[peer]}: {found if isinstance(found, str) else 'done'}"
            )

    def _measure_cifar(self, model: str) -> None:
        self._say(f"training {model} to {_ACCURACY:.0%}")
        arguments = ["-m", "mixer.main", f"--config=configs/cifar.py:{model}"]
        if self._miniature:
            arguments += [f"--config.{key}" for key in ("num_steps=4", "eval_every=2")]
            arguments += [f"--config.{key}" for key in ("batch_size=8", "checkpoint_every=4")]
            arguments += ["--config.optimizer.warmup_steps=1"]
        try:
            cell = minutes_to_accuracy(
                arguments,
                self._environment,
                self._left(),
                accuracy=_ACCURACY,
                on_progress=self._say,
            )
        except NotMeasuredError as error:
            cell = str(error)
        self._cifar = (model, cell)
        self._write()
        self._say(f"{model}: {cell}")

    def _json(self, arguments: Sequence[str], row: Row, share: float) -> dict[str, Any]:
        seconds, windows, pixels = (0.05, 1, 32) if self._miniature else (1.0, 3, 224)
        dtype = "float32" if self._environment["JAX_PLATFORMS"] == "cpu" else "bfloat16"
        work = [f"--variant={row.model}", f"--mode={row.mode}", f"--image_size={pixels}"]
        work += [f"--dtype={dtype}", f"--seconds={seconds}", f"--windows={windows}", "--json"]
        limit = min(_AT_MOST, self._left(share))
        if limit <= 0:
            raise NotMeasuredError("no time")
        try:
            return run_json([*arguments, *work], self._environment, limit)
        except NotMeasuredError as error:
            if limit == _AT_MOST and str(error) == "no time":
                raise NotMeasuredError(f"not done in {_AT_MOST:.0f} s") from None
            raise

    def _text(self) -> str:
        left_out = [row.title for row in self._rows.values() if row.ours == "no time"]
        left_out += self._left_out
        left_out += [
            f"{row.title} beside {PEERS[peer]}"
            for row in self._rows.values()
            for peer, found in row.peers.items()
            if found == "no time" and row.ours != "no time"
        ]
        if self._cifar and self._cifar[1].startswith("no time"):
            left_out.append(self._cifar[0])
        some = f"{', '.join(left_out)} (--minutes={self._minutes:g})"
        return markdown(
            list(self._rows.values()),
            description=self._description,
            peak_tflops=self._peak_tflops,
            cifar=self._cifar,
            unfinished=some if left_out else "",
        )

    def _write(self) -> None:
        path = self._output
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        try:
            temporary.write_text(self._text())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:4.0f} s] {text}", file=sys.stderr, flush=True)


def _skipped(reason: str) -> str:
    """Returns the cell of a peer that `tests.peers` has skipped."""
    if is_out_of_memory(RuntimeError(reason)):
        return "out of memory"
    kind, _, text = reason.partition(": ")
    if kind in ("ImportError", "ModuleNotFoundError"):
        return "not installed"
    return f"failed: {text[:80]}"
