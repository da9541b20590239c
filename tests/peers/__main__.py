"""Compares the throughput of our models with timm's and with plain flax implementations.

python -m tests.peers --variant=S/16 --mode=train --batch_size=32 --dtype=float32
python -m tests.peers --variant=ViT-S/16 --mode=infer

All implementations run the same size, batch size and precision on one CPU or GPU, in alternation.
--mode=train times the forward pass, sigmoid loss, backward pass, clipping to global norm 1 and
Adam, on random images and without regularisation; --mode=infer times the forward pass alone. Peers
that are not installed are skipped (for timm: pip install torch timm), as is plain flax for BiT and
gMLP. On a GPU, one peer at a time leaves each more memory.
"""

import json
import os
from typing import Any

from absl import flags

from mixer.benchmark.timing import four_digits
from mixer.runtime import command

# By default JAX preallocates most of a GPU's memory and would leave too little for PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_VARIANT = flags.DEFINE_string(
    "variant", "S/16", "Model size: S/16 of Mixer, or of another family, as in ViT-S/16."
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "infer"], "Training step or inference.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per batch.", 1)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Image side in pixels.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Activation dtype.")
_PEERS = flags.DEFINE_list(
    "peers", ["plain_flax", "timm", "timm_compiled"], "Implementations to compare against."
)
_SECONDS = flags.DEFINE_float(
    "seconds", 4.0, "Approximate length of a timing window; it has at least one call."
)
_WINDOWS = flags.DEFINE_integer("windows", 5, "Pairs of timing windows per peer.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of a table.")


def main() -> None:
    # After the flags: JAX takes seconds.
    from mixer.models import title_of
    from tests.peers.compare import measure_peers

    report = measure_peers(
        _VARIANT.value,
        peers=_PEERS.value,
        mode=_MODE.value,
        batch_size=_BATCH_SIZE.value,
        image_size=_IMAGE_SIZE.value,
        dtype=_DTYPE.value,
        seconds=_SECONDS.value,
        windows=_WINDOWS.value,
    )
    if _JSON.value:
        print(json.dumps(report))
        return
    packages = [name for name in ("jax", "flax", "torch", "timm") if report[name]]
    print(
        f"{title_of(report['model'], report['variant'])}, {report['mode']}, "
        f"batch {report['batch_size']}, {report['dtype']}, "
        f"{report['image_size']} x {report['image_size']}, on {report['device']}, "
        f"{', '.join(f'{name} {report[name]}' for name in packages)}\n"
        f"host: {report['host_cpus']} CPUs, load average {report['host_load']:.1f} before the run\n"
        f"images/s and their ratio: median (min to max) of {_WINDOWS.value} pairs of windows\n"
    )
    print(f"{'peer':14}{'ours':>26}{'peer':>26}{'ours / peer':>26}   compile s")
    for row in report["peers"]:
        cells = [_cell(row[key]) for key in ("ours_images_per_s", "images_per_s", "ratio")]
        print(f"{row['peer']:14}{''.join(cells)}  {row['compile_s']:10.1f}")
    for name, reason in report["skipped"].items():
        print(f"{name:14}  skipped: {reason}")


def _cell(value: dict[str, Any]) -> str:
    median, least, most = (four_digits(value[key]) for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})".rjust(26)


if __name__ == "__main__":
    command.run(main)
