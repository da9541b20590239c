"""Fine-tunes weights on the 19 tasks of VTAB-1k and reports the mean.

python scripts/vtab.py --weights=imagenet21k/Mixer-B_16 --workdir=runs/vtab_B16

For each task the learning rate is chosen on 200 of its 1,000 images, with the first seed; no test
image is read until then. A fine-tuning on all 1,000 with each seed, evaluated on the test images,
gives the result: vtab.md, vtab.csv, vtab.json and vtab.png. The recipe is that of configs/vtab.py.
A task whose data are missing is not run, and does not stop the others. Run the same command again
to go on, or to rewrite the report. --miniature takes tiny weights and random images instead.
"""

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from mixer.runtime import command, startup

if TYPE_CHECKING:
    from mixer.vtab.plan import Vtab

startup.quiet_libraries()

_WEIGHTS = command.path_flag(
    "weights", "", "Published name, .npz or .safetensors file, or run. Not with --miniature."
)
_WORKDIR = command.path_flag(
    "workdir", None, "Local folder for the runs and the report.", required=True
)
_TASKS = flags.DEFINE_list("tasks", [], "Tasks, such as cifar100,clevr-count. Default: all 19.")
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "section_3", ["section_3", "appendix_c"], "Of the paper; see configs/vtab.py."
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the results.")
_DATA_DIR = command.path_flag("data_dir", "", "Where TFDS keeps its data sets. Default: TFDS's.")
_SET = flags.DEFINE_multi_string(
    "set", [], "KEY=VALUE: a config key of all runs that leaves the protocol, as in docs/vtab.md."
)
_MINIATURE = flags.DEFINE_bool("miniature", False, "Tiny weights on random images, in minutes.")
_CONFIG_FILE = pathlib.Path(__file__).parent.parent / "configs" / "vtab.py"


def main() -> None:
    _check_flags()
    if _MINIATURE.value:
        startup.compile_quickly()
    from mixer.runtime.stops import resumable  # after flag parsing, since JAX takes seconds

    with resumable():
        _run()


def _run() -> None:
    from mixer.vtab import run

    vtab, trainer = _plan(), None
    if _MINIATURE.value:
        from mixer.vtab import miniature

        startup.collect_garbage_rarely()
        # In one process, which keeps what is imported and compiled.
        vtab = miniature.with_random_weights(vtab)
        vtab = miniature.shrink(vtab, vtab.workdir / "mock" / "data")
        trainer = run.train_run_here
        startup.use_compilation_cache(f"{vtab.workdir}/mock/xla")
    failed = run.go_on(vtab, trainer)
    print(f"{vtab.workdir}/vtab.{{md,csv,json,png}}")
    if failed:
        raise ValueError(f"Failed, as the table says: {', '.join(failed)}")


def _check_flags() -> None:
    from mixer.data.vtab import find_task

    if "://" in _WORKDIR.value or not _WORKDIR.value:
        raise ValueError(f"Expected --workdir to be a local folder; got {_WORKDIR.value!r}.")
    if bool(_WEIGHTS.value) == _MINIATURE.value:
        raise ValueError("Expected either --weights or --miniature, which makes its own weights.")
    for name in _TASKS.value:
        find_task(name)


def _plan() -> "Vtab":
    import jax

    from mixer.data.vtab import TASKS
    from mixer.sweep.grid import parse_seeds
    from mixer.vtab.plan import Vtab, parse_changes
    from mixer.vtab.recipe import Recipe, recipe_of
    from mixer.weights.load import load_weights

    jax.config.update("jax_platforms", "cpu")  # the other devices are for the runs
    seeds = parse_seeds(_SEEDS.value)
    changes = parse_changes(_SET.value, str(_CONFIG_FILE))
    return Vtab(
        workdir=pathlib.Path(_WORKDIR.value),
        weights=_WEIGHTS.value,
        recipe=Recipe("", {}) if _MINIATURE.value else recipe_of(load_weights(_WEIGHTS.value)),
        config_file=str(_CONFIG_FILE),
        tasks=tuple(task for task in TASKS if not _TASKS.value or task in _TASKS.value),
        seeds=seeds,
        option="" if _PROTOCOL.value == "section_3" else _PROTOCOL.value,
        changes=changes | ({"data_dir": _DATA_DIR.value} if _DATA_DIR.value else {}),
    )


if __name__ == "__main__":
    command.run(main)
