"""Counts the bytes that each device sends in a data-parallel training step.

python scripts/count_communication.py --variant=B/16 --devices=1,2,4,8

The step is compiled for virtual CPU devices but not run. Each device holds the whole state and
--batch_per_device images. The expected amount is the cost of averaging the gradient over n devices,
2 (n - 1) / n times its size.
"""

import json
import os
from typing import Any

from absl import flags

from mixer.runtime import command

os.environ["JAX_PLATFORMS"] = "cpu"

_VARIANT = flags.DEFINE_string(
    "variant", "B/16", "Model size: B/16 of Mixer, or of another family, as in ViT-B/16."
)
_DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices to compile for.")
_BATCH = flags.DEFINE_integer("batch_per_device", 32, "Images per device.", 1)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Image side in pixels.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")


def main() -> None:
    rows = _count()
    if _JSON.value:
        print(json.dumps({"variant": _VARIANT.value, "rows": rows}))
        return
    print("devices   sent MiB  expected MiB  ratio  collectives")
    for row in rows:
        found = ", ".join(
            f"{entry['count']} {name} of {entry['mib']:,.1f} MiB"
            for name, entry in row["collectives"].items()
        )
        ratio = "-" if row["ratio"] is None else format(row["ratio"], ".3f")
        print(
            f"{row['num_devices']:7}  {row['sent_mib']:9,.1f}  {row['expected_mib']:12,.1f}  "
            f"{ratio:>5}  {found or 'none'}"
        )


def _count() -> list[dict[str, Any]]:
    counts = command.positive_integers(_DEVICES)

    import jax  # after flag parsing, since it takes seconds

    jax.config.update("jax_num_cpu_devices", max(counts))
    from mixer.benchmark import workloads
    from mixer.models import named
    from mixer.rehearsal.communication import count_communication

    return count_communication(
        workloads.recipe_model(*named(_VARIANT.value), dtype="float32"),
        image_size=_IMAGE_SIZE.value,
        batch_per_device=_BATCH.value,
        device_counts=counts,
    )


if __name__ == "__main__":
    command.run(main)
