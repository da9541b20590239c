"""Hostile files against the real commands, each in a process of its own; the outcomes as a table.

    PYTHONPATH=.:tests python -m hostile [GROUP ...]

Each file must end its command with an exit code other than 0 and a message that names it, without
a traceback, with nothing of it run, and in less than twice the memory that the command takes for
an honest file. GROUP is one of weights, images, folders, checkpoints, datasets, sources, sweeps, or
agreement: odd images and folders that all commands must read alike (`agreement.py`).
"""

import dataclasses
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time

# NumPy's OpenBLAS would start threads, and forks of a process with threads can hang.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

# Imported once, here: each process is a fork of this one.
import tensorboard.summary  # noqa: F401
from hostile import files
from hostile.files import CANARY, GOLDEN, Case

import mixer.data.datasets
import mixer.data.input_pipeline
import mixer.data.prepare
import mixer.evaluation.evaluate_weights
import mixer.evaluation.prediction
import mixer.sweep.runs
import mixer.train_loop  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent.parent
_SECONDS = 200  # until a command is ended, and counts as failed
_NOTHING = "-c"  # a command that only has the imports
_MIB = 2**20
GROUPS = ("weights", "images", "folders", "checkpoints", "datasets", "sources", "sweeps")
GROUPS += ("agreement",)
_NOISE = 16 * _MIB  # two runs of the same differ by so much
TRAIN = ("--config=configs/digits.py", "--config.num_epochs=0.2", "--config.model.num_blocks=1")
TRAIN += ("--config.optimizer.warmup_steps=1", "--config.model.hidden_dim=16")
TRAIN += ("--config.model.tokens_mlp_dim=8", "--config.model.channels_mlp_dim=32")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command has ended."""

    code: int
    output: str
    memory: int  # its peak in bytes


def run(script: str, arguments: tuple[object, ...], folder: pathlib.Path) -> Outcome:
    """Runs `main` (mixer.main) or a script in a fork, with `folder` as its working directory."""
    log = folder / "output"
    pid = os.fork()
    if pid == 0:
        _become(script, arguments, folder, log)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, log.read_text(errors="replace"), usage.ru_maxrss * 1024)


def _become(
    script: str, arguments: tuple[object, ...], folder: pathlib.Path, log: pathlib.Path
) -> None:
    """Ends this process as the interpreter would."""
    code = 1
    try:
        signal.alarm(_SECONDS)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        (folder / "configs").exists() or (folder / "configs").symlink_to(ROOT / "configs")
        sys.path.insert(0, str(folder))  # as with python -m
        sys.argv = [script, *map(str, arguments)]
        if script == "main":
            runpy.run_module("mixer.main", run_name="__main__")
        elif script != _NOTHING:
            runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def problem(case: Case, outcome: Outcome, honest: Outcome, folder: pathlib.Path) -> str:
    """Returns what is not as required, "" if all is; memory is that beyond the imports."""
    shown = outcome.output[-1500:]
    if (folder / CANARY).exists() or list(folder.rglob(f"{CANARY}*")):
        return "was run, or written outside of its place"
    if outcome.code <= 0:
        return f"exit code {outcome.code}: {shown}"
    if "Traceback" in outcome.output:
        return f"a traceback: {shown}"
    if case.named not in outcome.output:
        return f"not named: {shown}"
    if outcome.memory >= 2 * honest.memory + _NOISE:
        return f"{outcome.memory / _MIB:.0f} MiB, honest {honest.memory / _MIB:.0f} MiB"
    return ""


def write_and_ask(groups: set[str], folder: pathlib.Path) -> tuple[list[Case], dict[str, Outcome]]:
    """Writes the files of these groups; returns them and the honest outcome of each command."""
    data_dir, trained = folder / "data", folder / "run"
    train = (*TRAIN, f"--config.data_dir={data_dir}")
    grid = ("--config=configs/digits.py", "--grid=optimizer.learning_rate=0.1,0.2", "--seeds=0,1")
    grid = (*grid, "--config.train_split=train[:90%]", "--config.eval_splits.minival=train[90%:]")
    grid = (*grid, "--print_commands")
    weights = GOLDEN / "mixer_tiny.npz"
    predict = (f"--weights={weights}",)
    source = folder / "source"
    (source / "sound").mkdir(parents=True)
    (source / "sound" / "x.jpg").write_bytes(files.jpeg())
    (folder / "x.jpg").write_bytes(files.jpeg())
    honest = {
        "main": (*train, f"--workdir={trained}"),
        "evaluate.py": (f"--weights={trained}",),
        "convert_weights.py": (weights,),
        "predict.py": (folder / "x.jpg", *predict),
        "prepare_dataset.py": (f"--images={source}", "--name=x", f"--data_dir={folder / 'made'}"),
        "sweep.py": (*grid, f"--workdir={folder / 'sweep'}"),
    }
    of_group = {
        "weights": lambda: files.weights(folder),
        "images": lambda: files.images(folder, predict),
        "folders": lambda: files.image_datasets(folder, (f"--weights={trained}",)),
        "checkpoints": lambda: files.checkpoints(folder, trained, train),
        "datasets": lambda: files.datasets(folder, data_dir, trained),
        "sources": lambda: files.sources(folder),
        "sweeps": lambda: files.sweeps(folder, grid),
    }
    outcomes: dict[str, Outcome] = {}

    def ask(script: str) -> None:
        outcomes[script] = run(script, honest[script], folder)
        if outcomes[script].code:
            sys.exit(f"{script} fails for an honest file:\n{outcomes[script].output}")

    if groups & {"folders", "checkpoints", "datasets"}:
        ask("main")  # the others evaluate what it has trained
    cases = [case for group in of_group if group in groups for case in of_group[group]()]
    for script in {case.script: None for case in cases}:
        if script not in outcomes:
            ask(script)
    return cases, outcomes


def main() -> int:
    groups = sys.argv[1:] or GROUPS
    failed = 0
    if "agreement" in groups:  # in a process of its own: this one forks, and must have no threads
        command = [sys.executable, "-m", "hostile.agreement"]
        failed += subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        folder = pathlib.Path(temporary)
        cases, honest = write_and_ask(set(groups), folder)
        idle = run(_NOTHING, (), folder).memory

        def beyond_imports(outcome: Outcome) -> Outcome:
            return dataclasses.replace(outcome, memory=outcome.memory - idle)

        honest = {script: beyond_imports(outcome) for script, outcome in honest.items()}
        for script, outcome in honest.items():
            print(f"{'an honest file':35} {script:20} {outcome.memory / _MIB:6.0f} MiB")
        for case in cases:
            begin = time.monotonic()
            outcome = beyond_imports(run(case.script, case.arguments, folder))
            wrong = problem(case, outcome, honest[case.script], folder)
            failed += bool(wrong)
            figures = f"{outcome.memory / _MIB:6.0f} MiB {time.monotonic() - begin:5.1f} s"
            print(f"{case.what:35} {case.script:20} {figures}  {wrong or 'refused'}", flush=True)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(one.ru_utime + one.ru_stime for one in usage)
    print(f"{len(cases)} hostile files, {failed} failed, {seconds:.0f} s of CPU time")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
