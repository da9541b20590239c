"""Exports weights as a model that runs without this project, and reads the export back.

python scripts/export.py --weights=SOURCE --format=stablehlo|onnx|savedmodel|hub OUTPUT

Example: python scripts/export.py --weights=imagenet1k/Mixer-B_16 --format=onnx mixer.onnx

SOURCE is a published name, a .npz or .safetensors file, or the workdir of a run. OUTPUT is a new
file, or for savedmodel and hub a new folder. The first three take batches of any size, and appear
once their own runtime has computed the same as the model, in another process. A folder for the
Hugging Face hub has weights that timm loads, its config and a model card. See docs/export.md.
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
    "format", None, ["stablehlo", "onnx", "savedmodel", "hub"], "What to write.", required=True
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


_LICENCE = flags.DEFINE_string(
    "licence", "unknown", "Of hub: the licence of the weights as the hub names it: apache-2.0."
)

_PROGRAMS = ["stablehlo", "onnx", "savedmodel"]
_ONLY_FOR = [  # flags, and the formats that have them
    (_PLATFORMS, ["stablehlo"]),
    (_WITH_PREPROCESSING, _PROGRAMS),
    (_DTYPE, _PROGRAMS),
    (_LICENCE, ["hub"]),
]


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise ValueError(f"Expected one OUTPUT to write; got {' '.join(arguments) or 'none'}.")
    for flag, formats in _ONLY_FOR:
        if flag.present and _FORMAT.value not in formats:
            raise ValueError(
                f"Expected --{flag.name} with --format={'|'.join(formats)} alone; got "
                f"--format={_FORMAT.value}. Leave out one of them."
            )
    output = pathlib.Path(arguments[0]).expanduser()
    if _FORMAT.value == "hub":
        _write_hub_folder(output)
    else:
        _write_program(output)


def _write_hub_folder(output: pathlib.Path) -> None:
    # After flag parsing, since JAX takes seconds.
    from mixer.export.hub import write_hub_folder
    from mixer.weights.load import assumed_gelu, with_gelu
    from mixer.weights.weights import load_weights

    weights = with_gelu(load_weights(_WEIGHTS.value), _GELU.value)
    if assumed := assumed_gelu(_WEIGHTS.value, weights):
        print(assumed, file=sys.stderr, flush=True)
    differs = write_hub_folder(
        output, weights, _IMAGE_SIZE.value, source=_WEIGHTS.value, licence=_LICENCE.value
    )
    print(f"Wrote {output}: config.json, model.safetensors, README.md. {differs}".rstrip())


def _write_program(output: pathlib.Path) -> None:
    from mixer.export.write import BATCH_SIZES, write_export
    from mixer.weights.load import load_model

    loaded = load_model(
        _WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value, dtype=_DTYPE.value
    )
    if loaded.assumed:
        print(loaded.assumed, file=sys.stderr, flush=True)
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
    check, largest = export.check, BATCH_SIZES[-1]
    print(
        f"Wrote {output}, {export.num_bytes:,} bytes: images [batch, {size}, {size}, 3], RGB, "
        f"{images}, to {program.output_name}.\nRead back in another process: batches of "
        f"{' and '.join(map(str, BATCH_SIZES))} differ by {check.difference:.1e} of the largest "
        f"{program.output_name} or less; {largest} images take {1000 * check.seconds:.3g} ms, here "
        f"{1000 * check.model_seconds:.3g} ms."
    )


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
