"""Prepares a dataset for training: python scripts/prepare_dataset.py --dataset=NAME.

Either a dataset of the table in mixer/data/table.py, which TFDS downloads and writes:

  python scripts/prepare_dataset.py --dataset=cifar10

or images on disk, a folder or a tar file for each class, with or without a folder for each split
(PATH/CLASS/*.jpg, PATH/CLASS.tar, PATH/train/CLASS/*.jpg, PATH/train/CLASS.tar):

  python scripts/prepare_dataset.py --images=PATH --name=NAME [--classes=FILE]

If it is interrupted, run the same command again.
"""

import os
import sys

from absl import app, flags, logging

# Before TensorFlow is loaded: only its errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_DATASET = flags.DEFINE_string("dataset", None, "A dataset of the table.")
_IMAGES = flags.DEFINE_string("images", None, "A folder of images to make a dataset of.")
_NAME = flags.DEFINE_string("name", None, "The name of the dataset to make of --images.")
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "With --images: a file with one class a line, in the order of the labels. Without it, the "
    "classes that are found, sorted.",
)
_UNREADABLE = flags.DEFINE_enum(
    "unreadable", "fail", ["fail", "skip"], "With --images: what to do about unreadable ones."
)
_CHECK = flags.DEFINE_enum(
    "check",
    "decode",
    ["decode", "header"],
    "With --images: read all of every image, or only its header and its end mark.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where TFDS keeps its datasets; its default is ~/tensorflow_datasets."
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Files per split. Without it, a number that makes files of 64 MiB to 1 GiB.",
    lower_bound=1,
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if (_DATASET.value is None) == (_IMAGES.value is None):
        raise app.UsageError("Expected either --dataset or --images.")
    if (_IMAGES.value is None) != (_NAME.value is None):
        raise app.UsageError("Expected --name with --images, and only with it.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # the libraries' own messages: --verbosity=0
    try:
        _prepare()
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("Interrupted. No dataset was written.", file=sys.stderr)
        sys.exit(130)


def _prepare() -> None:
    # After the flags, so that --help and typos answer at once.
    from mixer.data import prepare
    from mixer.data.table import DATASETS
    from mixer.errors import unknown_name

    options = {"data_dir": _DATA_DIR.value, "num_shards": _NUM_SHARDS.value}
    if _DATASET.value is not None:
        if _DATASET.value not in DATASETS:
            raise unknown_name("dataset", _DATASET.value, DATASETS)
        prepared = prepare.prepare_tfds(DATASETS[_DATASET.value], **options)
    else:
        prepared = prepare.ingest_images(
            _IMAGES.value,
            _NAME.value,
            class_names=prepare.read_class_names(_CLASSES.value) if _CLASSES.value else None,
            unreadable=_UNREADABLE.value,
            check=_CHECK.value,
            **options,
        )
    name = _DATASET.value or _NAME.value
    print(prepared.summary())
    flags_to_train = prepare.training_flags(name, _DATA_DIR.value, prepared.splits)
    print(f"  {'train on it':<12} {flags_to_train}")


if __name__ == "__main__":
    app.run(main)
