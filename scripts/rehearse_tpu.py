"""Estimates memory and time of a config's step on a Cloud TPU slice, without a TPU.

python scripts/rehearse_tpu.py --config=configs/pretrain_imagenet.py:B/16 --topology=v3-32
python scripts/rehearse_tpu.py --config=configs/finetune.py:B/16,cifar10 --topology=this
python scripts/rehearse_tpu.py --sweep --goal=pretrain_imagenet.py:B/16 --price=v5e:1.20,v6e:2.70

The step is compiled for the slice, which takes up to seven minutes per row; what was compiled once
is kept in ~/.cache/mixer. Several slices, as in --topology=v3-8,v5e-16,2xv6e-16 (two slices that
train together), give a table; --sweep takes slices of every generation and says what the run costs
on each. --mode=infer estimates inference throughput at several batch sizes. --topology=this times
the devices of this machine instead, and says what part of the batch they hold. Any config key can
be overridden with --config.KEY=VALUE. Slices require libtpu: pip install -r requirements-tpu.txt.
"""

import json
import os
import sys
from typing import Any

from absl import flags

from mixer.runtime import command

# Where a TPU is only compiled for, libtpu's warnings about missing hardware are noise.
for _name in ("TF_CPP_MIN_LOG_LEVEL", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL"):
    os.environ.setdefault(_name, "3")

_CONFIG = command.config_flag()
_GOAL = flags.DEFINE_string(
    "goal", None, "Instead of --config: the run to be done, a config file in configs/."
)
_TOPOLOGY = flags.DEFINE_list(
    "topology",
    [],
    "Slices, by their Cloud TPU names, or this: this machine. Default: v3-32, of --sweep several.",
)
_SWEEP = flags.DEFINE_bool("sweep", False, "Compare slices by hours and cost of the run.")
_PRICE = flags.DEFINE_list("price", [], "For --sweep: prices per chip-hour, as in v5e:1.20,v6e:2.7")
_PEER = flags.DEFINE_enum(
    "peer", None, ["plain_flax"], "Also compile this implementation, and print the ratio."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "infer"], "Training step or inference.")
_BATCH = flags.DEFINE_list("batch_per_core", ["32", "64", "128", "256"], "For --mode=infer only.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")
_ADVISE = flags.DEFINE_bool(
    "advise", True, "If the config does not fit, find a change that fits; not in a sweep."
)

_STEP = (
    ("topology", "slice", "9"),
    ("batch_per_core", "batch/core", "10"),
    ("peak_hbm_gib", "peak GiB", "8.2f"),
    ("hbm_limit_gib", "of GiB", "6.1f"),
    ("estimated_step_ms", "est. ms", "8.1f"),
    ("estimated_by", "by", "8"),
    ("bound_step_ms", "bound ms", "8.1f"),
)
_TABLE = (
    *_STEP,
    ("images_per_s_per_core", "img/s/core", "10.0f"),
    ("hours", "hours", "7.1f"),
    ("core_days", "core-days", "9.1f"),
    ("paper_core_days", "paper", "5"),
    ("compile_s", "compile s", "9.0f"),
)
_SWEEP_TABLE = (
    *_STEP[:4],
    ("headroom_gib", "free GiB", "8.2f"),
    *_STEP[4:],
    ("hours", "hours", "7.2f"),
    ("chip_hours", "chip-hours", "10.1f"),
    ("core_hours", "core-hours", "10.1f"),
    ("cost", "cost", "9.2f"),
)


def main() -> None:
    if (_CONFIG.value is None) == (_GOAL.value is None):
        raise ValueError("Expected one of --config=FILE[:ARGUMENTS] and --goal; see --help.")
    if _PRICE.value and not _SWEEP.value:
        raise ValueError("Expected --price together with --sweep.")
    if _MODE.value == "infer" and (_SWEEP.value or _PEER.value):
        raise ValueError("Expected --sweep and --peer with --mode=train; got --mode=infer.")
    is_here = "this" in _TOPOLOGY.value
    if is_here and (
        len(_TOPOLOGY.value) > 1 or _SWEEP.value or _PEER.value or _MODE.value != "train"
    ):
        raise ValueError(
            "Expected --topology=this alone, without --sweep, --peer and --mode=infer. "
            "scripts/benchmark.py measures inference and peers here."
        )
    name = _GOAL.value or flags.FLAGS["config"].config_filename
    config = _CONFIG.value
    if _GOAL.value:
        name = _GOAL.value if os.path.isfile(_GOAL.value.partition(":")[0]) else f"configs/{name}"
        config = command.read_config(name)
    if is_here:
        _rehearse_here(name, config)
        return
    os.environ["JAX_PLATFORMS"] = "cpu"
    # After flag parsing, since JAX takes seconds.
    from mixer.rehearsal import sweep
    from mixer.rehearsal.topology import parse_slice

    prices = sweep.parse_prices(_PRICE.value)
    slices = _TOPOLOGY.value or (sweep.SLICES if _SWEEP.value else ["v3-32"])
    slices = list(dict.fromkeys(str(parse_slice(each)) for each in slices))
    table = _SWEEP_TABLE if _SWEEP.value else _TABLE
    _say(f"Compiling the {_MODE.value} step of {name}; each row takes up to seven minutes.")
    if not _JSON.value:
        print("  ".join(title.rjust(_width(spec)) for _, title, spec in table), flush=True)
    rows = []
    for number, topology in enumerate(slices, 1):
        if len(slices) > 1:
            print(f"[{number}/{len(slices)}] {topology} ...", file=sys.stderr, flush=True)
        try:
            for row in _rehearse(config, topology):
                row["config"] = name
                rows.append(sweep.sweep_row(row, prices) if _SWEEP.value else row)
                _print(rows[-1], table)
        except ValueError as error:
            if len(slices) == 1:
                raise
            _say(f"{topology}: {error}")
    if _SWEEP.value:
        for what, topology in sweep.best(rows).items():
            _say(f"{what}: {topology}")
    _print_footer()


def _rehearse(config: Any, topology: str) -> Any:
    """Yields the reports of a slice."""
    from mixer.build import build_without_data
    from mixer.rehearsal import rehearse
    from mixer.rehearsal.peer import compare, rehearse_plain_flax

    if _MODE.value == "infer":
        for batch in command.positive_integers(_BATCH):
            yield rehearse.rehearse_inference(config, topology, batch)
        return
    report = rehearse.rehearse_training(config, topology)
    if _PEER.value:
        peer = rehearse_plain_flax(build_without_data(config)[0], topology)
        report["peer"] = {"name": _PEER.value, **peer}
        report |= compare(report, peer)
    yield report
    if not report["fits"] and _ADVISE.value and not _SWEEP.value:
        _say(f"Does not fit on {topology}; searching for the cheapest change that makes it fit ...")
        change, report = rehearse.smallest_change_that_fits(config, topology)
        _say(f"It fits with {change}:")
        yield report | {"change": change}


def _rehearse_here(name: str, config: Any) -> None:
    from mixer.rehearsal.here import rehearse_here

    _say(f"Compiling and timing the training step of {name} on this machine.")
    report = rehearse_here(config) | {"config": name}
    if _JSON.value:
        print(json.dumps(report))
        return
    parts, devices, hours = (report[key] for key in ("accumulation_steps", "num_cores", "hours"))
    print(
        f"devices   {devices} x {report['device']}\n"
        f"memory    {report['peak_hbm_gib']:.2f} of {report['hbm_limit_gib']:.1f} GiB per device, "
        f"with {report['batch_per_core']} images at a time: --config.accumulation_steps={parts}\n"
        f"step      {report['estimated_step_ms']:,.1f} ms, {report['images_per_s_per_core']:.3g} "
        f"images/s per device; input, evaluation and saves are not in it\n"
        f"run       {report['total_steps']:,} steps: {hours:,.2f} hours, {hours / 24:,.1f} days"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr if _JSON.value else sys.stdout, flush=True)


def _print(report: dict[str, Any], table: Any) -> None:
    if _JSON.value:
        print(json.dumps(report), flush=True)
        return
    print(_line(report, table) + ("" if report["fits"] else "  DOES NOT FIT"), flush=True)
    if "paper_images_per_s_per_core" in report:
        print(f"{'':10}the paper measured {report['paper_images_per_s_per_core']:,} img/s/core")
    if "peer" in report:
        fits = "" if report["peer"]["fits"] else "  DOES NOT FIT"
        print(_line(report["peer"] | {"topology": "plain"}, table) + fits)
        ratios = [
            f"{key} {report[key]:.3f}" for key in ("time_ratio", "hbm_ratio") if key in report
        ]
        print(f"{'':10}ours / plain flax: {', '.join(ratios)}", flush=True)
    for name, entry in report.get("collectives", {}).items():
        if not _SWEEP.value:
            print(f"{'':10}{name}: {entry['count']}, {entry['mib']:,.1f} MiB in total")


def _line(report: dict[str, Any], table: Any) -> str:
    return "  ".join(
        (format(report[key], spec) if key in report else "-").rjust(_width(spec))
        for key, _, spec in table
    )


def _width(spec: str) -> int:
    return int(spec.partition(".")[0].rstrip("f"))


def _print_footer() -> None:
    if not _JSON.value:
        print(
            "\npeak GiB: arguments, outputs, temporaries and program, per device.\n"
            "est. ms: without waiting for the network or the input. It is a lower bound on the "
            "step time, and so is\nwhat follows from it; img/s/core is an upper bound.\n"
            "by: compiler, its own estimate; roofline where it does not know the cost of every "
            "instruction: the longer\nof arithmetic and memory traffic, summed over the compiled "
            "instructions (docs/rehearsal.md).\n"
            "bound ms: the model's matmuls at the peak rate of the chip."
        )


if __name__ == "__main__":
    command.run(main)
