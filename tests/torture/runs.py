"""Runs of the program as a user starts them, and what they leave behind."""

import hashlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ports import free_port

from mixer.reporting.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = ("-m", "mixer.main")
# Measured, so never the same twice.
OF_THE_CLOCK = ("images_per_second_per_core", "train_seconds", "wall_seconds", "core_days")


def small_mixer(images: pathlib.Path, cache: pathlib.Path, *, steps: int) -> list[str]:
    """Returns the flags of a small Mixer on JPEGs with all that is random; every loss is logged.

    Stochastic depth, mixup and clipping are on in configs/digits.py; here RandAugment and flips
    are, too.
    """
    overrides = {
        "dataset": f"folder:{images}",
        "image_size": 32,
        "eval_resize": 36,
        "batch_size": 32,
        "num_epochs": steps * 32 / 160,
        "flip": True,
        "randaugment.layers": 2,
        "randaugment.magnitude": 15.0,
        "cache": "none",
        "model.num_blocks": 2,
        "optimizer.warmup_steps": 10,
        "log_every": 1,
        "eval_every": 50,
        "checkpoint_every": 10,
    }
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    return ["--config=configs/digits.py", f"--compilation_cache={cache}", *flags]


def start(
    workdir: pathlib.Path,
    flags: Sequence[str],
    *,
    processes: int = 1,
    devices: int = 1,
    program: Sequence[str] = PROGRAM,
    output: pathlib.Path | int = subprocess.DEVNULL,
) -> list[subprocess.Popen]:
    """Starts the processes of a run, with so many CPU devices each.

    Their output goes to files, `output` with the number of the process appended.
    """
    command = [sys.executable, "-u", *program, f"--workdir={workdir}", *flags]
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    environment = {
        **os.environ,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PLATFORMS": "cpu",
        "NPROC": "16",  # with fewer threads than devices XLA's collectives wait for ever
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={devices}",
    }
    started = []
    for number in range(processes):
        of_process = [f"--process_id={number}"] if processes > 1 else []
        file = output if isinstance(output, int) else open(f"{output}.{number}", "wb")  # noqa: SIM115
        started.append(
            subprocess.Popen(
                [*command, *of_process],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        )
        if not isinstance(file, int):
            file.close()
    return started


def finish(
    workdir: pathlib.Path,
    flags: Sequence[str],
    *,
    start: Callable[..., list[Any]] = start,
    **options: int,
) -> None:
    """Runs to the end.

    Raises:
      RuntimeError: it failed; holds what the first process that did has printed.
    """
    output = workdir.with_suffix(".log")
    for number, process in enumerate(start(workdir, flags, output=output, **options)):
        if code := process.wait(timeout=1200):
            text = pathlib.Path(f"{output}.{number}").read_text()
            raise RuntimeError(f"Exit code {code}:\n{text}")


def losses(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the loss of each logged step; JSON keeps every bit."""
    return {line["step"]: line["loss"] for line in read_metrics(workdir) if "loss" in line}


def lines(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Returns the metrics without those that a clock decides."""
    return [
        {key: value for key, value in line.items() if key not in OF_THE_CLOCK}
        for line in read_metrics(workdir)
    ]


def newest_checkpoint(workdir: pathlib.Path) -> int:
    """Returns the step of the newest complete checkpoint, 0 if there is none."""
    complete = (workdir / "checkpoints").glob("*/commit_success.txt")
    return max((int(path.parent.name) for path in complete), default=0)


def hash_of_state(workdir: pathlib.Path) -> str:
    """Returns a digest of all bits of the parameters and the optimizer's state at the end."""
    path = workdir / "checkpoints" / str(newest_checkpoint(workdir)) / "state"
    reader = ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree
    )
    state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(name).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()
