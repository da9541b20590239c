"""Trains the model of a config: python -m mixer.main --config=FILE --workdir=DIR.

Any key of the config can be overridden, as in --config.batch_size=256. Run the same command again
to resume. SIGTERM or Ctrl-C saves the state and ends with exit code 0. A config is a Python file
that is executed: use only files that you trust.
"""

import os
import sys
import time
import traceback

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from mixer.runtime import startup

_STARTED = time.monotonic()  # JAX and TensorFlow, which take seconds to import, come later
startup.quiet_libraries()

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Config file, FILE[:ARGUMENTS].",
    # Accepts overrides of unknown keys, for which train() names the nearest known key.
    accept_new_attributes=True,
    lock_config=False,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, metrics and pictures; it may be in a bucket (gs://). A run that has a "
    "checkpoint there is resumed. All processes must reach it.",
    required=True,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume even if the config or the data differ from the run's."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mixer", "xla"),
    "Folder for compiled programs, so that a resumed run starts sooner; it may be in a bucket. "
    '"" keeps none.',
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


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if not _WORKDIR.value:
        raise app.UsageError("Expected --workdir=DIR; got an empty one.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # the libraries' own messages: --verbosity=0
    config = _CONFIG.value
    startup.collect_garbage_rarely()
    startup.keep_freed_memory(config.get("batch_size", 0) * config.get("image_size", 0) ** 2)
    # After the flags, so that --help and typos are answered at once.
    import jax

    from mixer.runtime import distributed
    from mixer.runtime.preemption import Preempted
    from mixer.train_loop import train

    startup.use_compilation_cache(_COMPILATION_CACHE.value)
    distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        train(
            config,
            epath.Path(_WORKDIR.value),
            allow_config_change=_ALLOW_CONFIG_CHANGE.value,
            started=_STARTED,
        )
    except Preempted:
        jax.distributed.shutdown()
        _end(0)  # a thread that waits for data would delay the exit
    except Exception as error:
        is_explained = isinstance(error, ValueError | OSError | FloatingPointError)
        if is_explained and not flags.FLAGS["verbosity"].present:
            print(f"error: {error}\n(--verbosity=0 shows where.)", file=sys.stderr)
        else:
            traceback.print_exc()
        _end(1)  # JAX would wait for the other processes, and they for this one


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
