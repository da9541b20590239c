"""The workloads that benchmarks time: training and inference on random images on the device.

They need neither TensorFlow nor a dataset.
"""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from mixer.batch import abstract_batch, normalize_images
from mixer.benchmark.timing import Workload
from mixer.losses import LOSSES
from mixer.models import build_model
from mixer.optimizer import create_adam
from mixer.sharding import batch_sharding, replicated
from mixer.train_state import Params, TrainState, create_train_state
from mixer.train_step import jit_train_step, make_train_step

# The settings of configs/pretrain_imagenet.py that affect the cost of a step; a test keeps the two
# in sync.
NUM_CLASSES = 1000
RECIPE_MODEL = {"stochastic_depth_rate": 0.1, "head_bias_init": -6.9}
RECIPE_STEP = {"mixup_alpha": 0.5, "weight_decay": 0.1}
RECIPE_MESH = {"data": 1, "fsdp": -1}


def recipe_model(name: str, variant: str, dtype: str) -> nn.Module:
    """Returns a model as that config builds it; a field that its family lacks is left out.

    Raises:
      ValueError: as `build_model`.
    """
    model = build_model(name, variant, num_classes=NUM_CLASSES, dtype=dtype)
    fields: dict[str, Any] = {k: value for k, value in RECIPE_MODEL.items() if hasattr(model, k)}
    return model.clone(**fields)


def training_step(
    model: nn.Module, *, image_size: int, mesh: Mesh, mixup_alpha: float, weight_decay: float
) -> tuple[Any, TrainState, Callable[[Params], TrainState]]:
    """Returns the jitted training step of the training loop, which donates the state.

    Also returns the abstract state and the function that initialises the state from (possibly
    empty) pre-trained parameters.
    """
    optimizer = create_adam(
        optax.constant_schedule(1e-3),
        beta1=0.9,
        beta2=0.999,
        weight_decay=weight_decay,
        clip_global_norm=1.0,
        mu_dtype="float32",
    )
    abstract_state, init_state = create_train_state(
        model, optimizer, image_size=image_size, seed=0, averaged=False, mesh=mesh
    )
    step = make_train_step(
        model,
        optimizer,
        LOSSES["sigmoid"],
        num_classes=model.num_classes,
        mixup_alpha=mixup_alpha,
        accumulation_steps=1,
        polyak_decay=0.0,
        seed=0,
    )
    return jit_train_step(step, abstract_state), abstract_state, init_state


def training(
    model: nn.Module,
    *,
    batch_size: int,
    image_size: int,
    mesh: Mesh,
    mixup_alpha: float,
    weight_decay: float,
) -> Workload:
    """Returns a workload of training steps on one fixed batch; each call updates the state.

    `batch_size` counts the images on all devices, `image_size` is their side in pixels.
    """
    step, _, init_state = training_step(
        model,
        image_size=image_size,
        mesh=mesh,
        mixup_alpha=mixup_alpha,
        weight_decay=weight_decay,
    )
    batch = random_batch(batch_size, image_size, model.num_classes, mesh)
    return chained(step, init_state({}), batch)


def inference(model: nn.Module, *, batch_size: int, image_size: int, mesh: Mesh) -> Workload:
    """Returns a workload of forward passes from uint8 images to logits; see `training`."""

    def infer(params: Any, images: jax.Array) -> Any:
        return model.apply({"params": params}, normalize_images(images))

    def init() -> Any:
        return model.init(jax.random.key(0), jnp.zeros((1, image_size, image_size, 3)))["params"]

    params = jax.jit(init, out_shardings=replicated(mesh))()
    images = random_batch(batch_size, image_size, 1, mesh)["images"]
    return repeated(jax.jit(infer, out_shardings=batch_sharding(mesh)), params, images)


def matrix_product(dtype: str, shape: tuple[int, int, int]) -> Workload:
    """Returns a workload of matrix products `[m, k] @ [k, n]` on one device; `shape` is (m, k, n).

    The values are random: products of zeros draw less power, so a chip may run them faster.
    """
    m, k, n = shape
    left = jax.random.normal(jax.random.key(0), (m, k), dtype)
    right = jax.random.normal(jax.random.key(1), (k, n), dtype)
    return repeated(jax.jit(jnp.dot), left, right)


def repeated(function: Any, *args: Any) -> Workload:
    """Returns a workload that calls a jitted function with the same arguments every time."""
    compiled, compile_s = _compile(function, *args)

    def run(calls: int) -> None:
        for _ in range(calls):
            result = compiled(*args)
        jax.block_until_ready(result)

    return Workload(run, compile_s, _program_bytes(compiled))


def chained(function: Any, state: Any, *args: Any) -> Workload:
    """Returns a workload that calls a jitted (state, *args) -> (next state, result) in sequence."""
    compiled, compile_s = _compile(function, state, *args)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, result = compiled(state, *args)
        jax.block_until_ready((state, result))

    return Workload(run, compile_s, _program_bytes(compiled))


def _compile(step: Any, *args: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = step.lower(*args).compile()
    return compiled, time.perf_counter() - start


def _program_bytes(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def random_batch(
    batch_size: int, image_size: int, num_classes: int, mesh: Mesh, *, labels_per_image: int = 1
) -> dict[str, jax.Array]:
    """Returns random bytes and labels on the devices, as `mixer/batch.py` describes a batch."""
    shapes = abstract_batch(batch_sharding(mesh), batch_size, image_size, labels_per_image)

    def draw() -> dict[str, jax.Array]:
        images, labels = shapes["images"], shapes["labels"]
        return {
            "images": jax.random.bits(jax.random.key(0), images.shape, images.dtype),
            "labels": jax.random.randint(jax.random.key(1), labels.shape, 0, num_classes),
        }

    return jax.jit(draw, out_shardings={name: shapes[name].sharding for name in shapes})()
