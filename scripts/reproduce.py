"""Reproduces the paper's tables and figures from configs.

python scripts/reproduce.py list [--workdir=DIR]       what there is, and what is missing for it
python scripts/reproduce.py plan table3 --rows=imagenet/Mixer-B/16   the runs, and what they cost
python scripts/reproduce.py run table3 --workdir=DIR    trains what is not done, and reports
python scripts/reproduce.py report all [--workdir=DIR]   Markdown, CSV, LaTeX; figures: PNG, PDF

WHAT is a table or figure, several separated by commas, or "all". "figure2right-cifar10", not of the
paper and not in "all", is Figure 2 (right) in small on CIFAR-10. --rows chooses rows whose names
contain one of the texts. --print_commands prints the commands of the trainings, one per line, in an
order that works.
--pretrained=published starts from the released weights where there are some.
--miniature takes tiny models on the digits instead: the same runs in minutes, on any machine.
Run the same command again to go on.
"""

import pathlib
import shlex
from typing import TYPE_CHECKING

from absl import flags

from mixer.runtime import command, startup

if TYPE_CHECKING:
    from mixer.paper.graph import Item
    from mixer.reproduction.study import Study

startup.quiet_libraries()

_VERBS = ("list", "plan", "run", "report")
_WORKDIR = command.path_flag("workdir", "runs/paper", "Folder of all runs.")
_ROWS = flags.DEFINE_list("rows", [], "Rows, by a part of their names; wildcards work.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Slice of the estimates, such as v3-32. Default: those that are recorded."
)
_REHEARSE = flags.DEFINE_bool("rehearse", False, "Rehearse each run, a minute each.")
_PRINT_COMMANDS = flags.DEFINE_bool("print_commands", False, "Print the commands alone.")
_PRETRAINED = flags.DEFINE_enum(
    "pretrained", "own", ["own", "published"], "What fine-tuning starts from."
)
_MINIATURE = flags.DEFINE_bool("miniature", False, "Tiny models on the digits.")
_DATA_DIR = command.path_flag("data_dir", "", "Where TFDS keeps its data sets. Default: TFDS's.")


def main(arguments: list[str]) -> None:
    if _MINIATURE.value:
        startup.compile_quickly()
    # After flag parsing, since JAX takes seconds.
    from mixer.errors import unknown_name
    from mixer.paper import cifar10_fractions
    from mixer.paper.items import all_items
    from mixer.reproduction import miniature, plan
    from mixer.reproduction.study import Study

    verb, *what = arguments or [""]
    if verb not in _VERBS:
        raise unknown_name("verb", verb, _VERBS)
    if len(what) != (verb != "list"):
        expected = "no table or figure" if verb == "list" else "one table or figure"
        raise ValueError(f"Expected {expected} after {verb}; got {' '.join(what) or 'none'}.")
    unused = [flag.name for flag in (_TOPOLOGY, _REHEARSE, _PRINT_COMMANDS) if flag.value]
    if unused and verb != "plan":
        raise ValueError(f"Expected --{unused[0]} with plan alone; got it with {verb}.")
    workdir, published = _WORKDIR.value, _PRETRAINED.value == "published"
    if "://" in workdir or not workdir:
        raise ValueError(f"Expected --workdir to be a local folder; got {workdir!r}.")
    if _MINIATURE.value and published:
        raise ValueError(
            "Expected --pretrained=own with --miniature: no tiny weights are published."
        )
    # Runs record the weights that they start from by their path.
    study = Study(pathlib.Path(workdir).absolute(), published, _DATA_DIR.value, _MINIATURE.value)
    study.check_workdir()
    items = all_items()
    if _MINIATURE.value:
        items = miniature.shrink_items(items)
    else:
        extra = cifar10_fractions.figure()
        items[extra.name] = extra
    chosen = plan.choose(items, what[0] if what else "all", _ROWS.value)
    {"list": _list, "plan": _plan, "run": _run, "report": _report}[verb](study, chosen)


def _run(study: "Study", items: "list[Item]") -> None:
    from mixer.reproduction import execute
    from mixer.runtime.stops import resumable

    execution = execute.PROCESSES
    if _MINIATURE.value:
        # In one process, which keeps what it has compiled.
        startup.collect_garbage_rarely()
        startup.use_compilation_cache(f"{study.workdir}/xla")
        execution = execute.HERE
    with resumable():
        failed = execute.run_items(study, items, execution)
        _report(study, items)
    if failed:
        raise ValueError(f"Failed or left out: {', '.join(failed)}")


def _report(study: "Study", items: "list[Item]") -> None:
    from mixer.reproduction.report import write_report

    for path in write_report(study, items):
        print(path)


def _list(study: "Study", items: "list[Item]") -> None:
    from mixer.reproduction import plan

    reasons: dict[str, None] = {}
    for item in items:
        counts, missing = plan.state(study, item)
        reasons |= dict.fromkeys(missing)
        shown = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
        print(f"{item.name:13} {item.title}\n{'':13} {sum(counts.values())} cells: {shown}")
    if reasons:
        print("\nMissing:\n" + "\n".join(f"* {reason}" for reason in reasons))


def _plan(study: "Study", items: "list[Item]") -> None:
    from mixer.paper.graph import Run, VtabMean
    from mixer.reproduction import plan

    if _PRINT_COMMANDS.value:
        for job in plan.jobs_to_do(study, items):
            if isinstance(job, Run | VtabMean):
                print(shlex.join(study.command(job)))
        return
    topology = _TOPOLOGY.value
    if _REHEARSE.value:
        estimate = plan.rehearsed(study, topology or "v3-32")
    else:
        estimate = plan.recorded(study, topology)
    lines = plan.make_plan(study, items, estimate)
    print(f"{plan.plan_table(lines)}\n\n{plan.summary(lines)}")


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
