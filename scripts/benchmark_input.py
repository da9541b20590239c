"""Compares the input pipeline with a classic tf.data pipeline over the same images, in images/s.

Example: python scripts/benchmark_input.py --dataset=folder:PATH --json
"""

import json
import os

from absl import flags

from mixer.runtime import command, startup

startup.quiet_libraries()

_DATASET = flags.DEFINE_string("dataset", None, "JPEG dataset, as in a config.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Split that fits into memory.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "TFDS's data folder; empty for its default.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per batch.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns per pipeline.", 1)
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Seconds per turn.", 0.001)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of lines.")


def main() -> None:
    from mixer.benchmark.input import measure_input
    from mixer.data.datasets import open_dataset  # after the flags: TensorFlow takes seconds

    dataset = open_dataset(_DATASET.value, _SPLIT.value, _DATA_DIR.value)
    rows = measure_input(
        dataset,
        image_size=_IMAGE_SIZE.value,
        batch_size=_BATCH_SIZE.value,
        rounds=_ROUNDS.value,
        seconds=_SECONDS.value,
    )
    result = {"cores": os.cpu_count(), "image_size": _IMAGE_SIZE.value, "recipes": rows}
    if _JSON.value:
        print(json.dumps(result))
        return
    for row in rows:
        print(", ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    command.run(main)
