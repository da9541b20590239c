"""Describes weights, and converts them to another format or resolution.

python scripts/convert_weights.py IN [OUT] [--image_size=448] [--overwrite]

Example: python scripts/convert_weights.py imagenet1k/Mixer-B_16 mixer_b16.safetensors

IN is a published name such as imagenet21k/Mixer-B_16, a .npz or .safetensors file, a workdir, or
one of its checkpoints. The suffix of OUT selects the format: .npz for the released naming,
.safetensors for timm's. Without OUT, nothing is written. Files record no class names, and those in
.npz no type of GELU: what using OUT needs is printed.
"""

import dataclasses
import math
import pathlib
import sys

from absl import app, flags

from mixer.runtime import command

_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Resize the weights for images of this side in pixels (Appendix C).", 1
)
_GELU = flags.DEFINE_enum(
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or the usual one."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace OUT if it exists.")


def main(arguments: list[str]) -> None:
    if len(arguments) not in (1, 2):
        raise app.UsageError(f"Expected IN [OUT]; got {len(arguments)} arguments.")
    source, *outputs = arguments
    # After flag parsing, since JAX takes seconds.
    from mixer.weights.load import assumed_gelu, save_weights, with_gelu
    from mixer.weights.weights import load_weights, resized_params

    weights = with_gelu(load_weights(source), _GELU.value)
    image_size = weights.image_size if _IMAGE_SIZE.value is None else _IMAGE_SIZE.value
    params = resized_params(weights, image_size)
    print(f"{source}: {weights.description}")
    for title, text in _overview(weights.family, params):
        print(f"  {title:<12} {text}")
    for output in map(pathlib.Path, outputs):
        output = output.expanduser()
        if assumed := assumed_gelu(source, weights):
            print(assumed, file=sys.stderr, flush=True)
        lost = save_weights(output, weights, image_size, overwrite=_OVERWRITE.value)
        print(f"Wrote {output}, {output.stat().st_size:,} bytes.{lost and ' ' + lost}")


def _overview(family: str, params: dict) -> list[tuple[str, str]]:
    from mixer.models import variant_of
    from mixer.weights.families import family_named, find_architecture

    row, found = family_named(family), find_architecture(params, family)
    fields = dict(found.fields)
    num_classes = fields.pop("num_classes")
    variant = variant_of(family, fields)
    name = f"{row.title} {variant}" if variant else "of no named size"
    rows = [("model", f"{name}: " + ", ".join(f"{field} {fields[field]}" for field in fields))]
    if found.num_tokens:
        patch_size, side = fields["patch_size"], math.isqrt(found.num_tokens)
        grid = f", {side} x {side} for images of {side * patch_size} x {side * patch_size} pixels"
        is_square = side**2 == found.num_tokens
        rows.append(("tokens", f"{found.num_tokens}{grid if is_square else ', not a square grid'}"))
    headless = dataclasses.replace(found, fields={**found.fields, "num_classes": 0})
    whole, without = (
        sum(map(math.prod, row.expected_shapes(f).values())) for f in (found, headless)
    )
    rows.append(("classes", f"{num_classes}" if num_classes else "no head"))
    rows.append(("parameters", f"{whole:,}, {without:,} without the head"))
    return rows


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
