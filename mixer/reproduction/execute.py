"""Executes what tables and figures need, one job after the other; what is done is left alone."""

import concurrent.futures
import dataclasses
import datetime
import json
import math
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from mixer.benchmark import throughput
from mixer.build import build_without_data
from mixer.evaluation.evaluate_weights import evaluate_head, images_for
from mixer.models import build_model
from mixer.paper.graph import Evaluation, Item, Job, Run, Throughput, VtabMean
from mixer.reporting.environment import environment
from mixer.reproduction.plan import is_finished, job_name, jobs_to_do
from mixer.reproduction.study import SETTINGS_NAME, VTAB_CONFIG, Study, read_config, with_overrides
from mixer.reproduction.values import evaluation_files
from mixer.runtime.naming import naming
from mixer.runtime.workdir_lock import folder_lock
from mixer.sharding import create_mesh
from mixer.sweep import here
from mixer.sweep import plan as sweep_plan
from mixer.sweep import runs as sweep_runs
from mixer.sweep.runs import LOG_NAME, end_of_log, execute, read_outcomes, run_sweep
from mixer.vtab import miniature as vtab_miniature
from mixer.vtab import run as vtab_run
from mixer.vtab.plan import Vtab
from mixer.vtab.recipe import Recipe, recipe_of
from mixer.weights.load import load_model, load_weights

_BATCH = 256  # images in evaluation
_WINDOWS = 3  # of a timing

# Trains a config with overrides in a folder, with its output in a log; returns the exit code.
Train = Callable[[str, Mapping[str, Any], pathlib.Path, pathlib.Path], int]


@dataclasses.dataclass(frozen=True)
class Execution:
    """How jobs are executed."""

    train: Train
    call: Callable[..., Any]  # calls a function with arguments
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256)  # of throughput
    seconds: float = 2.0  # of a timing window


def train_in_process(
    config: str, overrides: Mapping[str, Any], folder: pathlib.Path, log: pathlib.Path
) -> int:
    """Trains in a process of its own."""
    changes = [f"--config.{key}={value}" for key, value in overrides.items()]
    program = [*sweep_plan.PROGRAM, f"--config={config}", f"--workdir={folder}", *changes]
    return execute(program, log)


def train_config_here(
    config: str, overrides: Mapping[str, Any], folder: pathlib.Path, log: pathlib.Path
) -> int:
    """Trains in this process."""
    changed = with_overrides(read_config(config), dict(overrides))
    return here.train_here(changed, folder, log)


def call_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process, so that this one never holds the devices."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def call_here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


PROCESSES = Execution(train_in_process, call_in_process)
HERE = Execution(train_config_here, call_here, batch_sizes=(32,), seconds=0.05)


def evaluate(folder: str, job: Evaluation, data_dir: str) -> dict[str, Any]:
    """Returns the result of `evaluate_head` for the weights of a run."""
    images = images_for(
        loaded := load_model(folder),
        dataset=job.dataset or None,
        split=job.split or None,
        data_dir=data_dir or None,
        crops=(job.crop,),
        batch_size=_BATCH,
    )
    (result,) = evaluate_head(loaded, images)
    return {**result, **environment()}


def measure(job: Throughput, batch_sizes: Sequence[int], seconds: float) -> dict[str, Any]:
    """Returns the images/s/core of a config's model at its best batch size as `value`."""
    options, _ = build_without_data(read_config(job.config))
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = build_model(**{**options.model, "dtype": dtype}, num_classes=options.num_classes)
    result = throughput.measure_throughput(
        model,
        mode="infer",
        image_size=options.image_size,
        batch_sizes=batch_sizes,
        mesh=create_mesh(),
        matrix_tflops=math.inf,  # a cell has no share of the peak
        seconds=seconds,
        windows=_WINDOWS,
    )
    if not (best := result["best"]):
        raise ValueError(f"No batch size of {list(batch_sizes)} fits in memory.")
    speeds = best["images_per_s_per_core"]
    found = {"value": speeds["median"], "min": speeds["min"], "max": speeds["max"]}
    return {**found, "batch_size": best["batch_size"], **environment()}


def check(study: Study, jobs: Sequence[Job]) -> None:
    """Checks everything that can be wrong before anything starts.

    Raises:
      ValueError: the workdir is of something else, or data are missing; the message says how to
        prepare them.
    """
    study.check_workdir()
    missing = dict.fromkeys(filter(None, map(study.missing, jobs)))
    if missing:
        lines = "\n".join(f"* {why}" for why in missing)
        raise ValueError(
            f"Expected all data that these {len(jobs)} jobs need:\n{lines}\nOr choose what does "
            "without: `list` names it, --rows takes a part."
        )


def run_items(study: Study, items: Sequence[Item], execution: Execution) -> list[str]:
    """Executes what is not done yet, and returns the names of the jobs that failed.

    Prints progress. A failed job is shown with the end of its log; those that need it are left out
    and count as failed.

    Raises:
      ValueError: as `check`, or another process is at work in the folder.
      KeyboardInterrupt: on an interrupt, after the current run has been stopped.
    """
    jobs = jobs_to_do(study, items)
    check(study, jobs)
    with folder_lock(study.workdir, "study"):
        _write(study.workdir / SETTINGS_NAME, json.dumps(study.settings) + "\n")
        failed: dict[Job, str] = {}
        for job in _shown(jobs):
            before = study.needs(job)
            if before in failed:
                failed[job] = job_name(job)
                print(f"  left out: {failed[before]} failed", flush=True)
            elif why := _run(study, job, execution):
                failed[job] = job_name(job)
                print(f"  failed: {why}", flush=True)
    return list(failed.values())


def _shown(jobs: Sequence[Job]) -> Iterator[Job]:
    """Yields the jobs, each after a line with what is left."""
    start = time.monotonic()
    for number, job in enumerate(jobs):
        left = ""
        if number:
            seconds = (time.monotonic() - start) / number * (len(jobs) - number)
            left = f", ETA {datetime.timedelta(seconds=round(seconds))}"
        print(f"[{number + 1} of {len(jobs)}{left}] {job_name(job)}", flush=True)
        yield job


def _run(study: Study, job: Job, execution: Execution) -> str:
    """Executes a job and returns why it failed, "" if it did not."""
    try:
        if isinstance(job, Run) and job.seeds == 1:
            folder = study.folder(job)
            folder.mkdir(parents=True, exist_ok=True)
            code = execution.train(job.config, study.overrides(job), folder, folder / LOG_NAME)
            if code:
                return f"exit code {code}:{end_of_log(folder / LOG_NAME)}"
        elif isinstance(job, Run):
            _run_sweep(study, job, execution)
        elif isinstance(job, VtabMean):
            _run_vtab(study, job, execution)
        elif isinstance(job, Evaluation):
            for path in evaluation_files(study, job):
                if not path.exists():
                    found = execution.call(evaluate, str(path.parent), job, study.data_dir)
                    _write(path, json.dumps(found) + "\n")
        else:
            found = execution.call(measure, job, execution.batch_sizes, execution.seconds)
            _write(study.workdir / job.name, json.dumps(found) + "\n")
        return "" if is_finished(study, job) else "it ended without its result"
    except Exception as error:  # the other jobs go on
        return f"{type(error).__name__}: {error}"


def _run_sweep(study: Study, run: Run, execution: Execution) -> None:
    sweep = study.sweep(run)
    run_sweep(sweep, read_outcomes(sweep), train=_trainer(execution))


def _run_vtab(study: Study, job: VtabMean, execution: Execution) -> None:
    weights = study.weights(job.run)
    plan = Vtab(
        workdir=study.folder(job),
        weights=weights,
        recipe=execution.call(_recipe_of, weights),
        config_file=VTAB_CONFIG,
        changes={"data_dir": study.data_dir} if study.data_dir else {},
    )
    if study.miniature:
        few = vtab_miniature.FEW
        plan = dataclasses.replace(plan, tasks=few, counted=few)
        plan = vtab_miniature.shrink(plan, study.workdir / "vtab" / "mock")
    vtab_run.go_on(plan, _trainer(execution))


def _recipe_of(weights: str) -> Recipe:
    return recipe_of(load_weights(weights))


def _trainer(execution: Execution) -> sweep_runs.Train:
    def train_one(sweep: sweep_plan.Sweep, one: sweep_plan.Run, log: pathlib.Path) -> int:
        name, seed = one
        overrides = {**sweep.overrides, **sweep.combinations[name], "seed": seed}
        return execution.train(sweep.config_file, overrides, sweep.folder(one), log)

    return train_one


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a file; a kill leaves it whole or absent."""
    temporary = path.with_name(f"{path.name}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text)
        temporary.replace(path)
