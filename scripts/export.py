"""Exports weights as a model that runs without this project, and reads the export back.

python scripts/export.py --weights=SOURCE --format=stablehlo|onnx|savedmodel OUTPUT

Example: python scripts/export.py --weights=imagenet1k/Mixer-B_16 --format=onnx mixer.onnx

SOURCE is a published name, a .npz or .safetensors file, or the workdir of a run. OUTPUT is a new
file, or for savedmodel a new folder. It takes batches of any size, and appears once its own runtime
has computed the same as the model, in another process. docs/export.md shows how to run it.
"""

import os
import pathlib
import sys

from absl import flags

from mixer.runtime import command, startup

# Before TensorFlow is imported.
startup.quiet_libraries()
# What was exported is compared here: an accelerator would round products to TF32 or bfloat16.
os.environ["JAX_PLATFORMS"] = "cpu"

_WEIGHTS = command.path_flag("weights", None, "Weights to export; see above.", required=True)
_FORMAT = flags.DEFINE_enum(
    "format", None, ["stablehlo", "onnx", "savedmodel"], "What to write.", required=True
)
_WITH_PREPROCESSING = flags.DEFINE_bool(
    "with_preprocessing",
    False,
    "Take uint8 images and return probabilities, instead of float32 in [-1, 1] and logits.",
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "Platforms of stablehlo: cpu, cuda, rocm, tpu."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Image side in pixels. Default: the side in training.", 1
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Activation dtype. Default: as in the run, or float32.",
)
_GELU = flags.DEFINE_enum(
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or the usual one."
)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise ValueError(f"Expected one OUTPUT to write; got {' '.join(arguments) or 'none'}.")
    if _PLATFORMS.present and _FORMAT.value != "stablehlo":
        raise ValueError(
            f"Expected --platforms for the format stablehlo alone; got --format={_FORMAT.value}."
        )
    # After flag parsing, since JAX takes seconds.
    from mixer.export.write import BATCH_SIZES, write_export
    from mixer.weights.load import load_model

    loaded = load_model(
        _WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value, dtype=_DTYPE.value
    )
    if loaded.assumed:
        print(loaded.assumed, file=sys.stderr, flush=True)
    output = pathlib.Path(arguments[0]).expanduser()
    export = write_export(
        loaded,
        output,
        _FORMAT.value,
        with_preprocessing=_WITH_PREPROCESSING.value,
        platforms=_PLATFORMS.value,
    )
    program = export.program
    images = "uint8" if program.with_preprocessing else "float32 in [-1, 1]"
    size = program.image_size
    print(
        f"Wrote {output}, {export.num_bytes:,} bytes: images [batch, {size}, {size}, 3], RGB, "
        f"{images}, to {program.output_name}.\nRead back in another process: batches of "
        f"{' and '.join(map(str, BATCH_SIZES))} differ by {export.difference:.1e} of the largest "
        f"{program.output_name} or less."
    )


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
