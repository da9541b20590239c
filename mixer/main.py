"""Trains the model of a config: python -m mixer.main --config=FILE --workdir=DIR.

Any key of the config can be overridden, for instance --config.batch_size=256. Run the same command
again to resume. A config is a Python file and is executed: use only files that you trust.
"""

import os
import pathlib

from absl import app, flags, logging
from ml_collections import config_flags

# Before TensorFlow is loaded: only its errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

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
    "Folder for checkpoints, metrics and pictures; resumed if it has a checkpoint.",
    required=True,
)
_ALLOW_CONFIG_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Resume although the config or the data differs from the run's."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # the libraries' own messages: --verbosity=0
    from mixer.train_loop import train  # after the flags, so that --help and typos answer at once

    train(
        _CONFIG.value,
        pathlib.Path(_WORKDIR.value or ""),
        allow_config_change=_ALLOW_CONFIG_CHANGE.value,
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
