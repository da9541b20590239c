"""Trains the model of a config: python -m mixer.main --config=FILE --workdir=DIR.

Any key of the config can be overridden, as in --config.batch_size=256. Run the same command again
to resume. SIGTERM or Ctrl-C saves the state and ends with exit code 0. A config is a Python file
that is executed: use only files that you trust.
"""

import os
import time

from absl import flags
from etils import epath

from mixer.config import check_config
from mixer.runtime import command, startup

_STARTED = time.monotonic()  # JAX and TensorFlow, which take seconds to import, come later
startup.quiet_libraries()

_CONFIG = command.config_flag()
_WORKDIR = command.path_flag(
    "workdir",
    None,
    "Folder for checkpoints, metrics and pictures; it may be in a bucket (gs://). A run that has a "
    "checkpoint there is resumed. All processes must reach it.",
    required=True,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume even if the config or the data differ from the run's."
)
_COMPILATION_CACHE = command.path_flag(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mixer", "xla"),
    "Folder for compiled programs, so that a resumed run starts sooner; it may be in a bucket. "
    '"" keeps none.',
)
_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "STEP:COUNT: write a trace of that many steps to profile/ in the workdir, for TensorBoard and "
    "Perfetto.",
)
_WANDB = flags.DEFINE_string(
    "wandb", "", "Project in Weights & Biases to which the metrics go as well. Requires wandb."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of process 0, if several processes train together. Cloud TPU does not need it.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes that train together."
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, counted from 0.")


def main() -> None:
    workdir, config = _WORKDIR.value, _CONFIG.value
    if not workdir or ("://" in workdir and not workdir.startswith("gs://")):
        raise ValueError(f"Expected --workdir to be a folder, here or in gs://; got {workdir!r}.")
    check_config(config)
    startup.collect_garbage_rarely()
    startup.keep_freed_memory(config.batch_size * config.image_size**2)
    # After the flags, so that --help and typos are answered at once.
    import jax

    from mixer.reporting import wandb_run
    from mixer.reporting.reports import Reports
    from mixer.reporting.trace import parse_steps
    from mixer.runtime import distributed
    from mixer.runtime.packages import check_installed
    from mixer.runtime.preemption import Preempted
    from mixer.train_loop import train

    traced_steps = range(0) if _PROFILE.value is None else parse_steps(_PROFILE.value)
    if _WANDB.value:
        check_installed(wandb_run.REQUIREMENTS, "for --wandb")
    startup.use_compilation_cache(_COMPILATION_CACHE.value)
    distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        train(
            config,
            epath.Path(workdir),
            allow_config_change=_ALLOW_CONFIG_CHANGE.value,
            started=_STARTED,
            reports=Reports(traced_steps=traced_steps, wandb_project=_WANDB.value),
        )
    except Preempted:
        jax.distributed.shutdown()
        command.end(0)  # a thread that waits for data would delay the exit
    except Exception as error:
        # JAX would wait for the other processes, and they for this one.
        command.end(command.report(error))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(main)
