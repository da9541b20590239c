"""Builds the model that weights belong to: a run's from its config, a file's from its shapes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mixer.models import build_model
from mixer.weights.families import family_like, family_of, find_architecture, resized_fields
from mixer.weights.shapes import flat_shapes

# Fields that fine-tuning may change: they matter to training, rounding or the head.
_FREE_FIELDS = {"dropout_rate", "stochastic_depth_rate", "head_bias_init", "dtype", "remat"}
_FREE_FIELDS |= {"num_classes", "parent", "name"}


def rebuild_model(
    recorded: Mapping[str, Any], params: dict[str, Any], image_size: int, **changes: Any
) -> nn.Module:
    """Returns the model for the parameters, with `changes` to its fields.

    `recorded` are arguments of `build_model`: all of them with `name`, as a run records them; else
    shapes decide the sizes. The parameters are for images of `image_size` pixels.

    Raises:
      ValueError: `recorded` describes another model than the parameters.
    """
    family = family_like(params, recorded["name"]) if "name" in recorded else family_of(params)
    fields = find_architecture(params, family).fields
    if "name" not in recorded:
        return build_model(family, **{**fields, **recorded, **changes})
    # Only what the dataset and a change of resolution decide is taken from the shapes.
    resized = {field: fields[field] for field in ("num_classes", *resized_fields(family))}
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    try:
        model = build_model(**{**recorded, **resized, **changes})
        needed = flat_shapes(jax.eval_shape(model.init, jax.random.key(0), images)["params"])
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Expected the config of a run to describe a model; got one that cannot be built: "
            f"{str(error)[:500]}"
        ) from error
    found = flat_shapes(params)
    differing = [n for n in sorted({*needed, *found}) if needed.get(n) != found.get(n)]
    if differing:
        raise ValueError(
            f"Expected the arrays of the model in the run's config; of {len(differing)} that "
            f"differ, the first is {differing[0]}: {found.get(differing[0])} instead of "
            f"{needed.get(differing[0])}. Use another checkpoint."
        )
    return model


def deciding_fields(model: nn.Module) -> dict[str, Any]:
    """Returns the fields that decide what the model computes, apart from its head."""
    names = [field.name for field in dataclasses.fields(model)]
    return {name: getattr(model, name) for name in names if name not in _FREE_FIELDS}
