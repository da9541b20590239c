"""The models that a config can name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mixer.errors import unknown_name
from mixer.models import bit, gmlp, mixer, permuted, token_mixing_variants, vit

# name -> (module, sizes)
MODELS: dict[str, tuple[type[nn.Module], dict[str, dict[str, Any]]]] = {
    "mixer": (mixer.MlpMixer, mixer.VARIANTS),
    "vit": (vit.VisionTransformer, vit.VARIANTS),
    "bit": (bit.BitResNet, bit.VARIANTS),
    "gmlp": (gmlp.Gmlp, gmlp.VARIANTS),
    # Of experiments: Figure 4, and Appendix A.1.
    "permuted_mixer": (permuted.PermutedMixer, mixer.VARIANTS),
    "permuted_bit": (permuted.PermutedResNet, bit.VARIANTS),
    "mixer_variant": (token_mixing_variants.MixerVariant, mixer.VARIANTS),
}

# name -> what papers call it, the part before the size: "ViT-B/16"
TITLES = {"mixer": "Mixer", "vit": "ViT", "bit": "BiT", "gmlp": "gMLP"}


def named(text: str) -> tuple[str, str]:
    """Returns the model and the size of a paper's name: "ViT-B/16" is `("vit", "B/16")`.

    A size alone is Mixer's: "B/16" is `("mixer", "B/16")`.

    Raises:
      ValueError: no model has that name.
    """
    title, _, variant = text.rpartition("-")
    for name, known in TITLES.items():
        if (title or "Mixer") == known and variant in MODELS[name][1]:
            return name, variant
    raise unknown_name("model", text, [title_of(*size) for size in sizes()])


def sizes() -> list[tuple[str, str]]:
    """Returns the model and the size of everything that has a name, in the order of this file."""
    return [(name, variant) for name in TITLES for variant in MODELS[name][1]]


def title_of(name: str, variant: str) -> str:
    """Returns the paper's name of a size, the inverse of `named`: "ViT-B/16"."""
    return f"{TITLES[name]}-{variant}"


def build_model(name: str, variant: str | None = None, **fields: Any) -> nn.Module:
    """Returns the model `name`: the fields of a named size, then `fields` over them.

    Example: `build_model("mixer", "B/16", num_classes=1000, dtype="bfloat16")`.

    Raises:
      ValueError: unknown name, variant or field, or a required field is missing.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    module, variants = MODELS[name]
    if variant is not None and variant not in variants:
        raise unknown_name(f"variant of {name}", variant, variants)
    fields = {**(variants[variant] if variant is not None else {}), **fields}

    known = {f.name: f for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    for field in fields:
        if field not in known:
            raise unknown_name(f"field of the model {name}", field, known)
    missing = [f for f in known if known[f].default is dataclasses.MISSING and f not in fields]
    if missing:
        raise ValueError(
            f"The model {name} needs {', '.join(missing)}. Give them, or a variant that sets "
            f"them: {', '.join(variants)}."
        )
    return module(**fields)


def variant_of(name: str, fields: Mapping[str, Any]) -> str | None:
    """Returns the named size of a family with these fields, None if there is none."""
    for variant, size in MODELS[name][1].items():
        if all(fields.get(field) == value for field, value in size.items()):
            return variant
    return None
