"""Estimates memory and time of a config's step on a Cloud TPU slice, without a TPU.

python scripts/rehearse_tpu.py --config=configs/pretrain_imagenet.py:B/16 --topology=v3-32

The step is compiled for the slice, which takes about a minute per row. Several slices, as in
--topology=v3-8,v3-32,v3-128, give a table; --sweep adds larger ones. --mode=infer estimates
inference throughput at several batch sizes. Any config key can be overridden with
--config.KEY=VALUE. Requires libtpu: pip install -r requirements-tpu.txt.
"""

import json
import os
import sys
from typing import Any

from absl import flags

from mixer.runtime import command

# No TPU is used, only compiled for; libtpu's warnings about missing hardware are noise.
os.environ["JAX_PLATFORMS"] = "cpu"
for _name in ("TF_CPP_MIN_LOG_LEVEL", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL"):
    os.environ.setdefault(_name, "3")

_CONFIG = command.config_flag()
_TOPOLOGY = flags.DEFINE_list("topology", ["v3-32"], "Slices, by their Cloud TPU names.")
_SWEEP = flags.DEFINE_bool("sweep", False, "Also compile for up to six larger slices.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "infer"], "Training step or inference.")
_BATCH = flags.DEFINE_list("batch_per_core", ["32", "64", "128", "256"], "For --mode=infer only.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")
_ADVISE = flags.DEFINE_bool("advise", True, "If the config does not fit, find a change that fits.")

_TABLE = (
    ("topology", "slice", "8"),
    ("batch_per_core", "batch/core", "10"),
    ("peak_hbm_gib", "peak GiB", "8.2f"),
    ("hbm_limit_gib", "of GiB", "6.1f"),
    ("estimated_step_ms", "est. ms", "8.1f"),
    ("bound_step_ms", "bound ms", "8.1f"),
    ("images_per_s_per_core", "img/s/core", "10.0f"),
    ("hours", "hours", "7.1f"),
    ("core_days", "core-days", "9.1f"),
    ("paper_core_days", "paper", "5"),
    ("compile_s", "compile s", "9.0f"),
)


def main() -> None:
    # After flag parsing, since JAX takes seconds.
    from mixer.rehearsal.topology import larger_slices

    slices = list(_TOPOLOGY.value)
    if not slices:
        raise ValueError("Expected --topology to name a slice, such as v3-32; got none.")
    if _SWEEP.value:
        slices += [name for name in larger_slices(slices[0])[:6] if name not in slices]
    _print_header()
    for name in slices:
        try:
            _rehearse(name)
        except ValueError as error:
            if len(slices) == 1:
                raise
            _say(f"{name}: {error}")
    _print_footer()


def _rehearse(topology: str) -> None:
    from mixer.rehearsal import rehearse

    if _MODE.value == "infer":
        for batch in command.positive_integers(_BATCH):
            _print(rehearse.rehearse_inference(_CONFIG.value, topology, batch))
        return
    report = rehearse.rehearse_training(_CONFIG.value, topology)
    _print(report)
    if not report["fits"] and _ADVISE.value:
        _say(f"Does not fit on {topology}; searching for the cheapest change that makes it fit ...")
        change, report = rehearse.smallest_change_that_fits(_CONFIG.value, topology)
        _say(f"It fits with {change}:")
        _print(report | {"change": change})


def _say(text: str) -> None:
    print(text, file=sys.stderr if _JSON.value else sys.stdout, flush=True)


def _print_header() -> None:
    what = f"{_MODE.value} step of {flags.FLAGS['config'].config_filename}"
    _say(f"Compiling the {what}; each row takes about a minute.")
    if not _JSON.value:
        print("  ".join(title.rjust(_width(spec)) for _, title, spec in _TABLE), flush=True)


def _print(report: dict[str, Any]) -> None:
    if _JSON.value:
        print(json.dumps({"config": flags.FLAGS["config"].config_filename, **report}), flush=True)
        return
    cells = [
        (format(report[key], spec) if key in report else "-").rjust(_width(spec))
        for key, _, spec in _TABLE
    ]
    print("  ".join(cells) + ("" if report["fits"] else "  DOES NOT FIT"), flush=True)
    if "paper_images_per_s_per_core" in report:
        print(f"{'':10}the paper measured {report['paper_images_per_s_per_core']:,} img/s/core")
    for name, entry in report.get("collectives", {}).items():
        print(f"{'':10}{name}: {entry['count']}, {entry['mib']:,.1f} MiB in total")


def _width(spec: str) -> int:
    return int(spec.partition(".")[0].rstrip("f"))


def _print_footer() -> None:
    if not _JSON.value:
        print(
            "\npeak GiB: arguments, outputs, temporaries and program, per device.\n"
            "est. ms: the compiler's estimate, without waiting for the network or the input. It is "
            "a lower bound\non the step time, and so are the hours and core-days that follow from "
            "it; img/s/core is an upper bound.\n-: the compiler has no estimate, as it does not "
            "know the costs of all instructions.\n"
            "bound ms: the model's matmuls at the peak rate of the chip."
        )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(main)
