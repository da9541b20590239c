"""Makes a dataset of images on disk, in TFDS's format, to train on with mixer.main.

Example: python scripts/prepare_dataset.py --images=PATH --name=NAME

PATH holds, for each class, a folder of images or a tar file of them (PATH/CLASS/*.jpg,
PATH/CLASS.tar), or a folder of these for each split (PATH/train/CLASS/*.jpg, PATH/train/CLASS.tar).
Of class folders without splits, about a tenth of each class, by file name, becomes the split test.
If the script is interrupted, run the same command again.
"""

import sys

from absl import flags

from mixer.runtime import command, startup
from mixer.runtime.watchdog import end_if_idle

# Before TensorFlow is imported.
startup.quiet_libraries()

_IMAGES = command.path_flag("images", None, "Folder of images.", required=True)
_NAME = flags.DEFINE_string("name", None, "Name of the new dataset.", required=True)
_CLASSES = command.path_flag(
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
_DATA_DIR = command.path_flag(
    "data_dir", "", "TFDS's data folder; by default, ~/tensorflow_datasets."
)
_NUM_SHARDS = flags.DEFINE_integer(
    "num_shards",
    None,
    "Files per split. By default, enough to keep each between 64 MiB and 1 GiB.",
    lower_bound=1,
)


def main() -> None:
    end_if_idle()
    from mixer.data import class_list, prepare  # after the flags: TensorFlow takes seconds

    names = None if _CLASSES.value is None else class_list.read_class_list(_CLASSES.value)
    try:
        report = prepare.ingest_images(
            _IMAGES.value,
            _NAME.value,
            data_dir=_DATA_DIR.value,
            class_names=names,
            num_shards=_NUM_SHARDS.value,
            unreadable=_UNREADABLE.value,
            check=_CHECK.value,
        )
    except KeyboardInterrupt:
        print("Interrupted. No dataset was written.", file=sys.stderr)
        sys.exit(130)
    print(report.summary())
    train_flags = prepare.training_flags(_NAME.value, _DATA_DIR.value, report.splits)
    print(f"  {'train on it':<12} {train_flags}")


if __name__ == "__main__":
    command.run(main)
