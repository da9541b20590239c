"""The same model in plain flax, compiled alike: what the tuning of our step is worth on a slice."""

from typing import Any

import jax
import jax.numpy as jnp

from mixer.benchmark.plain_flax import plain_model, plain_training
from mixer.build import RunOptions
from mixer.flops import train_flops_per_image
from mixer.models import build_model
from mixer.rehearsal.rehearse import compile_step
from mixer.rehearsal.topology import slice_devices
from mixer.sharding import batch_sharding, create_mesh, replicated


def rehearse_plain_flax(options: RunOptions, topology: str) -> dict[str, Any]:
    """Compiles the training step of `mixer/benchmark/plain_flax.py` for a slice.

    It has the model, batch size and precision of the run, and a replicated state, as whoever
    writes it first would do it; neither mixup nor regularisation nor a decay of weights. The result
    is that of `rehearse_training` without the entries that follow from the length of the run.

    Raises:
      ValueError: the family is not written in plain flax, or as `rehearse_training`.
    """
    mesh = create_mesh(slice_devices(topology))
    ours = build_model(**options.model, num_classes=options.num_classes)
    try:
        model = plain_model(
            options.model["name"],
            num_classes=options.num_classes,
            dtype=options.model["dtype"],
            size=vars(ours),
        )
    except NotImplementedError as error:
        raise ValueError(f"Expected --peer for Mixer or ViT; {error}. Leave out --peer.") from error
    init, train = plain_training(model)
    side, batch_size = options.image_size, options.batch_size
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    state = _abstract(jax.eval_shape(init, params), replicated(mesh))
    images, targets = (
        jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32, sharding=batch_sharding(mesh))
        for shape in ((side, side, 3), (options.num_classes,))
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state), replicated(mesh)
    step = jax.jit(train, donate_argnums=0, out_shardings=shardings)
    flops = train_flops_per_image(model, params, side) * batch_size
    return compile_step(step, state, images, targets, mesh=mesh, flops=flops)


def _abstract(tree: Any, sharding: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def compare(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, float]:
    """Returns `hbm_ratio` and, if both have an estimate, `time_ratio`: ours divided by the peer's.

    The times are both the compiler's, or both rooflines.
    """
    found = {"hbm_ratio": ours["peak_hbm_gib"] / peer["peak_hbm_gib"]}
    same = ours.get("estimated_by") == peer.get("estimated_by")
    key = "estimated_step_ms" if same else "roofline_step_ms"
    if key in ours and key in peer:
        found["time_ratio"] = ours[key] / peer[key]
    return found
