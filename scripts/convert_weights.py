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
    for title, text in _overview(weights.family, params):
        print(f"  {title:<12} {text}")
    for output in map(pathlib.Path, outputs):
        output = output.expanduser()
        lost = load.lost_in_files(weights, image_size)
        save_params(output, params, overwrite=_OVERWRITE.value)
        print(f"Wrote {output}, {output.stat().st_size:,} bytes.{lost and ' ' + lost}")


def _overview(family: str, params: dict) -> list[tuple[str, str]]:
    from mixer.models import variant_of
    from mixer.weights.families import FAMILIES, find_architecture

    found = find_architecture(params, family)
    fields = dict(found.fields)
    num_classes = fields.pop("num_classes")
    variant = variant_of(family, fields)
    name = f"{FAMILIES[family].title} {variant}" if variant else "of no named size"
    rows = [("model", f"{name}: " + ", ".join(f"{field} {fields[field]}" for field in fields))]
    if found.num_tokens:
        patch_size, side = fields["patch_size"], math.isqrt(found.num_tokens)
        grid = f", {side} x {side} for images of {side * patch_size} x {side * patch_size} pixels"
        is_square = side**2 == found.num_tokens
        rows.append(("tokens", f"{found.num_tokens}{grid if is_square else ', not a square grid'}"))
    headless = dataclasses.replace(found, fields={**found.fields, "num_classes": 0})
    whole, without = (
        sum(map(math.prod, FAMILIES[family].expected_shapes(f).values())) for f in (found, headless)
    )
    rows.append(("classes", f"{num_classes}" if num_classes else "no head"))
    rows.append(("parameters", f"{whole:,}, {without:,} without the head"))
    return rows


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
