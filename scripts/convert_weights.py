"""Describes weights, and converts them to another format or resolution.

python scripts/convert_weights.py IN [OUT] [--image_size=448] [--overwrite]

Example: python scripts/convert_weights.py imagenet1k/Mixer-B_16 mixer_b16.safetensors

IN is a published name such as imagenet21k/Mixer-B_16, a .npz or .safetensors file, a workdir, or
one of its checkpoints. The suffix of OUT selects the format: .npz for the released naming,
.safetensors for timm's. Without OUT, nothing is written. Files record neither the type of GELU nor
class names: weights trained in PyTorch need the exact GELU (gelu_approximate=False).
"""

import dataclasses
import math
import pathlib

from absl import app, flags

from mixer.runtime import command

_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Resize the weights for images of this side in pixels (Appendix C).", 1
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace OUT if it exists.")


def main(arguments: list[str]) -> None:
    if len(arguments) not in (1, 2):
        raise app.UsageError(f"Expected IN [OUT]; got {len(arguments)} arguments.")
    source, *outputs = arguments
    from mixer.weights import load, save_params  # after flag parsing, since JAX takes seconds

    weights = load.load_weights(source)
    image_size = weights.image_size if _IMAGE_SIZE.value is None else _IMAGE_SIZE.value
    params = load.resized_params(weights, image_size)
    print(f"{source}: {weights.description}")
    for title, text in _overview(params):
        print(f"  {title:<12} {text}")
    for output in map(pathlib.Path, outputs):
        output = output.expanduser()
        lost = load.lost_in_files(weights, image_size)
        save_params(output, params, overwrite=_OVERWRITE.value)
        print(f"Wrote {output}, {output.stat().st_size:,} bytes.{lost and ' ' + lost}")


def _overview(params: dict) -> list[tuple[str, str]]:
    from mixer.weights.architecture import architecture_of, count_parameters, flat_shapes

    architecture = architecture_of(flat_shapes(params))
    fields = dataclasses.asdict(architecture)
    num_tokens, num_classes = fields.pop("num_tokens"), fields.pop("num_classes")
    name = f"Mixer-{architecture.variant} of Table 1" if architecture.variant else "not of Table 1"
    patch_size, side = architecture.patch_size, math.isqrt(num_tokens)
    grid = f", {side} x {side} for images of {side * patch_size} x {side * patch_size} pixels"
    headless = dataclasses.replace(architecture, num_classes=0)
    return [
        ("model", f"{name}: " + ", ".join(f"{field} {value}" for field, value in fields.items())),
        ("tokens", f"{num_tokens}{grid if side**2 == num_tokens else ', not a square grid'}"),
        ("classes", f"{num_classes}" if num_classes else "no head"),
        (
            "parameters",
            f"{count_parameters(architecture):,}, {count_parameters(headless):,} without the head",
        ),
    ]


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
