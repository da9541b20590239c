"""Peer: timm's Mixer in PyTorch, eager or compiled, on the same kind of device as JAX."""

import time
from typing import Any

import jax

from mixer.benchmark.timing import Workload
from mixer.benchmark.workloads import NUM_CLASSES

_KEPT: list[Any] = []  # PyTorch unregisters operators whose library is garbage-collected


def timm(
    size: dict[str, int],
    *,
    mode: str,
    batch_size: int,
    image_size: int,
    dtype: str,
    compiled: bool,
) -> Workload:
    """Returns training or inference on random float images; `size` is a value of `VARIANTS`.

    With bfloat16, training uses autocast, keeping parameters and optimizer state in float32 like
    ours, and inference casts the whole model to bfloat16, which is faster. On a GPU, float32
    matmuls may use TF32, as in JAX by default. The optimizer is PyTorch's fused Adam.

    Raises:
      ImportError: timm or PyTorch is not installed.
      RuntimeError: PyTorch does not support the device, or cannot compile on this machine.
    """
    torch, timm_mixer = _import()
    device = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if device is None or (device == "cuda" and not torch.cuda.is_available()):
        raise RuntimeError(f"this PyTorch does not run on JAX's {jax.default_backend()}")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
    ratios = (size["tokens_mlp_dim"], size["channels_mlp_dim"])
    model = timm_mixer.MlpMixer(
        num_classes=NUM_CLASSES,
        img_size=image_size,
        patch_size=size["patch_size"],
        num_blocks=size["num_blocks"],
        embed_dim=size["hidden_dim"],
        mlp_ratio=tuple(dim / size["hidden_dim"] for dim in ratios),
    ).to(device)
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


def _import() -> tuple[Any, Any]:
    import torch

    try:
        import torchvision  # noqa: F401, timm needs it
    except RuntimeError:
        # A torchvision built for another PyTorch fails to load its operators. Its import only
        # requires this one, so define it.
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
    from timm.models import mlp_mixer

    return torch, mlp_mixer
