"""Trains over a grid of config values, selects the best on held-out images, and repeats it.

python scripts/sweep.py --config=configs/finetune.py:B/16,cifar10 --workdir=runs/sweep

The grid comes from the config file's SWEEP, or from --grid=optimizer.learning_rate=0.003,0.01
(repeat the flag for the product of several grids). It is run with the first seed, and the best
combination again with the other seeds. --config.KEY=VALUE overrides a config key for all runs. Run
the same command again to resume, or to rewrite the report. To use several machines,
--print_commands prints the runs that are ready, one command per line; once they have finished, it
prints the remaining seeds of the best combination.
"""

import pathlib
import shlex
import sys
from typing import Any

from absl import flags

from mixer.runtime import command, startup

startup.quiet_libraries()  # before TensorFlow is imported

_CONFIG = command.config_flag()
_WORKDIR = command.path_flag(
    "workdir", None, "Local folder for the runs and the report.", required=True
)
_GRID = flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE to vary instead of SWEEP.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds; the grid is run with the first only.")
_SELECT = flags.DEFINE_string("select", "minival/top1", "Metric that the best is selected by.")
_REPORT = flags.DEFINE_string("report", "test/top1", "Metric that is reported for the best.")
_PRINT_COMMANDS = flags.DEFINE_bool("print_commands", False, "Print the commands that are ready.")


def main() -> None:
    from mixer.runtime.stops import resumable

    with resumable():
        _sweep()


def _sweep() -> None:
    # After flag parsing, so that --help and typos are answered at once.
    from mixer.config import to_plain
    from mixer.sweep import grid, plan, report, runs

    if "://" in _WORKDIR.value:
        raise ValueError(f"Expected --workdir to be a local folder; got {_WORKDIR.value!r}.")
    config = to_plain(_CONFIG.value)
    sweep = plan.create_sweep(
        config_file=flags.FLAGS["config"].config_filename,
        overrides=flags.FLAGS["config"].override_values,
        config=config,
        combinations=grid.parse_grid(_GRID.value, config)
        if _GRID.value
        else grid.combinations_of(_own_grid()),
        seeds=grid.parse_seeds(_SEEDS.value),
        workdir=pathlib.Path(_WORKDIR.value),
        select=_SELECT.value,
        report=_REPORT.value,
    )
    outcomes = runs.read_outcomes(sweep)
    print(plan.overview(sweep, outcomes), file=sys.stderr if _PRINT_COMMANDS.value else sys.stdout)
    if _PRINT_COMMANDS.value:
        for run in plan.runs_to_do(sweep, outcomes):
            print(shlex.join(sweep.command(run, program=("python", "-m", "mixer.main"))))
        return
    outcomes = runs.run_sweep(sweep, outcomes)
    print(f"\n{report.write(sweep, outcomes)}\n{sweep.workdir}/sweep.{{md,json,png}}")
    failed = [sweep.folder(run) for run, outcome in outcomes.items() if outcome is None]
    if failed:
        raise ValueError(f"Failed runs: {', '.join(map(str, failed))}")


def _own_grid() -> dict[str, Any]:
    path = flags.FLAGS["config"].config_filename.partition(":")[0]
    module = command.load_config_file(path)
    if not hasattr(module, "SWEEP"):
        raise ValueError(f"{path} has no SWEEP. Pass --grid=KEY=VALUE,VALUE.")
    return module.SWEEP


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(main)
