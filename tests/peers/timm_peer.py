"""Peer: timm's models in PyTorch, eager or compiled, on the same kind of device as JAX."""

import functools
import time
from typing import Any

import jax

from mixer.benchmark.timing import Workload
from mixer.benchmark.workloads import NUM_CLASSES

_KEPT: list[Any] = []  # PyTorch unregisters operators whose library is garbage-collected


def timm(
    name: str,
    size: dict[str, Any],
    *,
    mode: str,
    batch_size: int,
    image_size: int,
    dtype: str,
    compiled: bool,
) -> Workload:
    """Returns training or inference on random float images; `size` has the model's dimensions.

    With bfloat16, training uses autocast, keeping parameters and optimizer state in float32 like
    ours, and inference casts the whole model to bfloat16, which is faster. On a GPU, float32
    matmuls may use TF32, as in JAX by default. The optimizer is PyTorch's fused Adam.

    Raises:
      ImportError: timm or PyTorch is not installed.
      RuntimeError: PyTorch does not support the device, or cannot compile on this machine.
    """
    torch, models = import_timm()
    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise RuntimeError(f"this PyTorch does not run on JAX's {jax.default_backend()}")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    model = _network(models, name, size, image_size).to(device)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    if mode == "infer":
        model, images = model.eval().to(getattr(torch, dtype)), images.to(getattr(torch, dtype))
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    labels = torch.randint(NUM_CLASSES, (batch_size,), device=device)
    targets = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    sigmoid_cross_entropy = torch.nn.BCEWithLogitsLoss(reduction="sum")

    def infer() -> None:
        with torch.inference_mode():
            network(images)

    def train() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = network(images)
        (sigmoid_cross_entropy(logits.float(), targets) / batch_size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    call = infer if mode == "infer" else train

    def run(calls: int) -> None:
        for _ in range(calls):
            call()
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    run(1)  # compiles
    return Workload(run, time.perf_counter() - start)


def _network(models: Any, name: str, size: dict[str, Any], image_size: int) -> Any:
    if name == "bit":
        return models.resnetv2.ResNetV2(
            list(size["block_sizes"]),
            num_classes=NUM_CLASSES,
            width_factor=int(size["width"]),
            stem_type="fixed",
            conv_layer=functools.partial(models.resnetv2.StdConv2d, eps=1e-8),
        )
    width = size["hidden_dim"]
    fields = {"num_classes": NUM_CLASSES, "img_size": image_size, "embed_dim": width}
    fields["patch_size"] = size["patch_size"]
    if name == "vit":
        return models.vision_transformer.VisionTransformer(
            depth=size["num_blocks"],
            num_heads=size["num_heads"],
            mlp_ratio=size["mlp_dim"] / width,
            **fields,
        )
    mixers = models.mlp_mixer
    if name == "gmlp":
        fields |= {"mlp_ratio": size["mlp_dim"] / width}
        fields |= {"block_layer": mixers.SpatialGatingBlock, "mlp_layer": mixers.GatedMlp}
    else:
        fields["mlp_ratio"] = (size["tokens_mlp_dim"] / width, size["channels_mlp_dim"] / width)
    return mixers.MlpMixer(num_blocks=size["num_blocks"], **fields)


def import_timm() -> tuple[Any, Any]:
    """Returns `torch` and `timm.models`; raises ImportError without them."""
    import torch

    try:
        import torchvision  # noqa: F401, timm needs it
    except RuntimeError:
        # A torchvision built for another PyTorch fails to load its operators. Its import only
        # requires this one, so define it.
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
    from timm import models

    return torch, models
