"""Trains the model of a config: python -m mixer.main --config=FILE --workdir=DIR.

Any key of the config can be overridden, for instance --config.batch_size=256. Run the same command
again to resume; SIGTERM or Ctrl-C saves the state and ends with exit code 0. A config is a Python
file and is executed: use only files that you trust.
"""

import gc
import os
import sys
import time
import traceback

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from mixer.runtime.startup import keep_freed_memory

_STARTED = time.monotonic()  # JAX and TensorFlow, which take seconds to import, come later

# Before TensorFlow is loaded: only its errors, and not all of Keras, which it would load to no use
# (and SciPy and scikit-learn with it) unless it looks for the older Keras, which is not installed.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

# Pixels from which keeping freed memory gains more than one arena for all threads costs the input:
# S/16 with 32 images of 224 x 224 gains 15%, the digits' model would lose 20%.
_LARGE_BATCH = 1_000_000

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Config file, FILE[:SIZE].",
    # An override of an unknown key gets in here, so that train() can name the nearest known key.
    accept_new_attributes=True,
    lock_config=False,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, metrics and pictures, also in a bucket (gs://); resumed if it has a "
    "checkpoint. All processes must reach it.",
    required=True,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume although the config or the data differs from the run's."
)
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mixer", "xla"),
    "Folder, also in a bucket, for what was compiled, so that a resumed run need not compile again;"
    ' "" keeps nothing.',
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, if several processes train. Not on Cloud TPU."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0 on.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # the libraries' own messages: --verbosity=0
    # Modules and traces stay, but Python would look through them a thousand times before the first
    # step, for a sixth of the start.
    gc.set_threshold(100_000)
    config = _CONFIG.value
    if config.get("batch_size", 0) * config.get("image_size", 0) ** 2 >= _LARGE_BATCH:
        keep_freed_memory()
    # After the flags, so that --help and typos answer at once.
    import jax

    from mixer.runtime import distributed
    from mixer.runtime.preemption import Preempted
    from mixer.train_loop import train

    if _COMPILATION_CACHE.value:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(_COMPILATION_CACHE.value))
        # Small programs, too: a resumed run needs a dozen for the checksums, half a second's worth.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    distributed.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        train(
            config,
            epath.Path(_WORKDIR.value or ""),
            allow_config_change=_ALLOW_CONFIG_CHANGE.value,
            started=_STARTED,
        )
    except Preempted:
        jax.distributed.shutdown()
        _end(0)  # a thread that still waits for data would hold up the end
    except Exception as error:
        is_told = isinstance(error, ValueError | OSError | FloatingPointError)
        if is_told and not flags.FLAGS["verbosity"].present:
            print(f"error: {error}\n(--verbosity=0 shows where.)", file=sys.stderr)
        else:
            traceback.print_exc()
        _end(1)  # JAX would wait for the other processes, which wait for this one


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
