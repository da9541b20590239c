"""Writes what a GPU does with our models, beside other implementations: scripts/gpu_report.sh.

python -m mixer.benchmark.gpu_report --minutes=10
"""

import pathlib
import signal
import sys

from absl import flags

from mixer.benchmark.gpu_rows import Report
from mixer.benchmark.machine import describe_machine
from mixer.runtime import command, startup

_OUTPUT = command.path_flag("output", "gpu_report.md", "New file for the table.")
_MINUTES = flags.DEFINE_float("minutes", 10.0, "Time for all, without the installation.", 0.01)
_PEERS = flags.DEFINE_bool("peers", False, "Measure timm, eager and compiled, too.")
_CIFAR = flags.DEFINE_string(
    "cifar", None, "cifar10 or folder:PATH: trains to 90% in at least half of the time."
)
_DEVICE = flags.DEFINE_enum("device", "gpu", ["gpu", "cpu"], "What to measure.")
_MINIATURE = flags.DEFINE_bool("miniature", False, "Small models, to try the report.")


def main() -> None:
    _check_flags()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what it has started, too
    if _DEVICE.value == "cpu":
        startup.compile_quickly()
    environment, description, limit_gib = describe_machine(_DEVICE.value, with_peers=_PEERS.value)
    report = Report(
        environment,
        description,
        limit_gib,
        output=pathlib.Path(_OUTPUT.value),
        minutes=_MINUTES.value,
        with_peers=_PEERS.value,
        cifar=_CIFAR.value,
        miniature=_MINIATURE.value,
    )
    print(report.measure(), end="")


def _check_flags() -> None:
    if _DEVICE.value == "cpu" and not _MINIATURE.value:
        raise ValueError(
            "Expected --miniature with --device=cpu, as the real sizes take hours there; got "
            "--device=cpu alone."
        )
    dataset = _CIFAR.value
    if dataset is not None and dataset != "cifar10" and not dataset.startswith("folder:"):
        raise ValueError(f"Expected --cifar to be cifar10 or folder:PATH; got {dataset!r}.")
    path = pathlib.Path(_OUTPUT.value)
    if path.exists() or not path.parent.is_dir():
        raise ValueError(
            f"Expected --output to be a new file in a folder that exists; got {path}. Move it "
            "away, or use another name."
        )


if __name__ == "__main__":
    command.run(main)
