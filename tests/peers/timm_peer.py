"""A peer: timm's Mixer in PyTorch, eager or compiled, on the kind of device that JAX uses."""

import time
from typing import Any

import jax

from mixer.benchmark.timing import Workload
from mixer.benchmark.workloads import NUM_CLASSES

_KEPT: list[Any] = []  # PyTorch forgets operators that nothing refers to


def timm(
    size: dict[str, int],
    *,
    mode: str,
    batch_size: int,
    image_size: int,
    dtype: str,
    compiled: bool,
) -> Workload:
    """Returns training or inference of a size of `VARIANTS` on float images on one device.

    In bfloat16 the training runs under autocast, with float32 parameters and optimizer state like
    ours; inference has the whole model in bfloat16, which is faster. float32 products on a GPU may
    use TF32, as JAX's do by default. Adam is PyTorch's fused one.

    Raises:
      ImportError: timm or PyTorch is not installed.
      RuntimeError: PyTorch has no support for the device, or cannot compile on this machine.
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
        # Built for another PyTorch, its operators do not load; its import looks up this one.
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(operators)
    from timm.models import mlp_mixer

    return torch, mlp_mixer
