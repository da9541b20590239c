"""Prints the size and the cost of every model: python -m mixer.models [NAME ...].

python -m mixer.models Mixer-B/16 ViT-B/16 --image_sizes=224,384 --num_classes=21843

Parameters, patches and sequence length (with the class token) are those at 224 x 224 pixels. GFLOPs
count the matrix products and convolutions of one image's forward pass, two FLOPs per multiply-add.
A Mixer at 448 pixels is one changed to that resolution as in Appendix C, with token-mixing MLPs of
four times the width; "-" stands where a model cannot have the resolution.

The Mixers are compared with the paper's Table 1. If one differs, the exit code is 1.
"""

import functools
import json
import math
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

from mixer.runtime import command

os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed

_IMAGE_SIZES = flags.DEFINE_list("image_sizes", ["224", "448"], "Sides in pixels, for GFLOPs.")
_CLASSES = flags.DEFINE_integer("num_classes", 1000, "Classes of the head.", 1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per model instead of tables.")

_TRAINED_AT = 224  # pixels


def main(names: list[str]) -> None:
    from mixer.models import named, sizes  # after flag parsing, since JAX takes seconds

    image_sizes = tuple(dict.fromkeys(command.positive_integers(_IMAGE_SIZES)))
    chosen = [named(name) for name in names] or sizes()
    if not _JSON.value:
        _print_header(image_sizes)
    rows = []
    for name, variant in chosen:
        for version in ("v2", "v1") if name == "bit" else (None,):
            row = describe(name, variant, _CLASSES.value, image_sizes, version=version)
            print(json.dumps(row) if _JSON.value else _line(row), flush=True)
            rows.append(row)
    differing = [f"{row['model']}: {row['differs']}" for row in rows if row["differs"]]
    if differing:
        raise ValueError("Not as in the paper's Table 1:\n  " + "\n  ".join(differing))
    if not _JSON.value:
        _print_comparison(rows)


def describe(
    name: str,
    variant: str,
    num_classes: int,
    image_sizes: Sequence[int],
    version: str | None = None,
) -> dict[str, Any]:
    """Returns a row of the table, JSON-compatible.

    `patches` and `sequence_length` are None for a model without patches. `gflops` has an entry per
    image size, None if the model cannot have it. `differs` says how a Mixer differs from Table 1.

    Args:
      version: of a BiT-ResNet, "v1" or "v2".
    """
    import jax

    from mixer.models import build_model, title_of

    fields = {"version": version} if version else {}
    model = build_model(name, variant, num_classes=num_classes, **fields)
    counts = {
        module: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(leaves))
        for module, leaves in _params(model, _TRAINED_AT).items()
    }
    patch_size = getattr(model, "patch_size", None)
    patches = patch_size and (_TRAINED_AT // patch_size) ** 2
    body = sum(counts.values()) - counts["head"]
    return {
        "model": title_of(name, variant) + (f" {version}" if version else ""),
        "patches": patches,
        "sequence_length": patches and patches + (getattr(model, "pool", None) == "token"),
        "parameters": sum(counts.values()),
        "parameters_without_head": body,
        "gflops": {
            size: None if size != _TRAINED_AT and name == "gmlp" else _gflops(model, size)
            for size in image_sizes
        },
        "differs": _difference_from_table1(variant, patches, body) if name == "mixer" else "",
    }


def _gflops(model: Any, image_size: int) -> float | None:
    from mixer.flops import train_flops_per_image

    factor, rest = divmod(image_size, _TRAINED_AT)
    if hasattr(model, "tokens_mlp_dim"):
        if rest:
            return None
        model = model.clone(tokens_mlp_dim=factor**2 * model.tokens_mlp_dim)
    try:
        params = _params(model, image_size)
    except ValueError:  # does not split into patches
        return None
    return train_flops_per_image(model, params, image_size) / 3 / 1e9


@functools.cache  # tracing the deepest models takes seconds
def _params(model: Any, image_size: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def _difference_from_table1(variant: str, patches: int | None, parameters: int) -> str:
    """Returns "NAME is OURS, in the paper THEIRS, ..."; nothing if all agrees."""
    from mixer.models.mixer import VARIANTS
    from mixer.paper.reference import TABLE1

    ours = VARIANTS[variant] | {
        "sequence_length": patches,
        "params_millions": round(parameters / 1e6),
    }
    paper = TABLE1[variant]
    return ", ".join(
        f"{name} is {value}, in the paper {getattr(paper, name)}"
        for name, value in ours.items()
        if value != getattr(paper, name)
    )


def _print_header(image_sizes: Sequence[int]) -> None:
    gflops = "".join(f"{f'GFLOPs {size}':>14}" for size in image_sizes)
    print(
        f"{'model':14}{'patches':>9}{'sequence':>10}{'parameters':>15}{'without head':>15}{gflops}",
        flush=True,
    )


def _line(row: dict[str, Any]) -> str:
    gflops = "".join(f"{cost:14,.2f}" if cost else f"{'-':>14}" for cost in row["gflops"].values())
    return (
        f"{row['model']:14}{row['patches'] or '-':>9}{row['sequence_length'] or '-':>10}"
        f"{row['parameters']:15,}{row['parameters_without_head']:15,}{gflops}"
    )


def _print_comparison(rows: Sequence[dict[str, Any]]) -> None:
    """Says which rows are those of Table 1, and compares Mixers with ViTs of the same size."""
    by_model = {row["model"]: row for row in rows}
    mixers = [name for name in by_model if name.startswith("Mixer-")]
    if mixers:
        print(f"\nAs in the paper's Table 1: {', '.join(mixers)}")
    for name in mixers:
        ours, theirs = by_model[name], by_model.get(name.replace("Mixer", "ViT"))
        if not theirs:
            continue
        parameters = ours["parameters_without_head"] / theirs["parameters_without_head"]
        line = f"{name} : {theirs['model']}  {parameters:.2f} of the parameters (without head)"
        for size, cost in ours["gflops"].items():
            if cost and theirs["gflops"][size]:
                line += f", {cost / theirs['gflops'][size]:.2f} of the GFLOPs at {size}"
        print(line)


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
