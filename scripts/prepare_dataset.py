"""Makes a dataset of images on disk, in TFDS's format, to train on with mixer.main.

Example: python scripts/prepare_dataset.py --images=PATH --name=NAME

PATH holds, for each class, a folder of images or a tar file of them (PATH/CLASS/*.jpg,
PATH/CLASS.tar), or a folder of these for each split (PATH/train/CLASS/*.jpg, PATH/train/CLASS.tar).
Of class folders without splits, a fixed tenth of each class becomes the split test.
If the script is interrupted, run the same command again.
"""

import os
import sys

from absl import app, flags, logging

# Before TensorFlow is loaded: only its errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_IMAGES = flags.DEFINE_string("images", None, "Folder of images.", required=True)
_NAME = flags.DEFINE_string("name", None, "Name of the new dataset.", required=True)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "File with one class name per line, in the order of the labels. By default, the classes found, "
    "sorted.",
)
_UNREADABLE = flags.DEFINE_enum(
    "unreadable", "fail", ["fail", "skip"], "Whether to stop at unreadable images or skip them."
)
_CHECK = flags.DEFINE_enum(
    "check",
    "decode",
    ["decode", "header"],
    "Whether to read each image in full, or only its header and its end marker, which is faster.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "TFDS's data folder; by default, ~/tensorflow_datasets."
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Files per split. By default, enough to keep each between 64 MiB and 1 GiB.",
    lower_bound=1,
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)  # --verbosity=0 shows the libraries' own messages
    try:
        from mixer.data import prepare  # after the flags: TensorFlow takes seconds

        report = prepare.ingest_images(
            _IMAGES.value or "",
            _NAME.value or "",
            data_dir=_DATA_DIR.value,
            class_names=prepare.read_class_names(_CLASSES.value) if _CLASSES.value else None,
            num_shards=_NUM_SHARDS.value,
            unreadable=_UNREADABLE.value,
            check=_CHECK.value,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("Interrupted. No dataset was written.", file=sys.stderr)
        sys.exit(130)
    print(report.summary())
    train_flags = prepare.training_flags(_NAME.value or "", _DATA_DIR.value, report.splits)
    print(f"  {'train on it':<12} {train_flags}")


if __name__ == "__main__":
    app.run(main)
