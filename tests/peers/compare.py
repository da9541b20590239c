"""Compares our model with other implementations, alternating so that noise affects both alike."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mixer.benchmark import workloads
from mixer.benchmark.plain_flax import plain_flax
from mixer.benchmark.throughput import describe_devices
from mixer.benchmark.timing import Workload, spread, time_calls, warm_up
from mixer.errors import unknown_name
from mixer.models import MODELS, build_model, named
from mixer.models.images import check_images_shape
from mixer.runtime.startup import keep_freed_memory
from mixer.sharding import create_mesh
from tests.peers.own_process import in_own_process
from tests.peers.timm_peer import timm

PEERS: dict[str, Callable[..., Workload]] = {
    "plain_flax": plain_flax,
    "timm": functools.partial(timm, compiled=False),
    "timm_compiled": functools.partial(timm, compiled=True),
}


def measure_peers(
    variant: str,
    *,
    peers: Sequence[str],
    mode: str,
    batch_size: int,
    image_size: int,
    dtype: str,
    seconds: float,
    windows: int,
) -> dict[str, Any]:
    """Compares our model with the named peers on one device; see `compare` for the result.

    Each implementation runs in its own process, set up as its users would: ours keeps freed memory
    where our programs do. The result also describes the workload, the device and package versions.

    Args:
      variant: "B/16" of Mixer, or of another family, such as "ViT-B/16".
      peers: keys of `PEERS`.
      mode: "train" or "infer".
      batch_size: images per batch.
      image_size: side in pixels.
      dtype: of the activations, "float32" or "bfloat16".
      seconds: length of a window.
      windows: pairs of windows per peer.

    Raises:
      ValueError: the variant or a peer is unknown, `image_size` is not a multiple of the patch
        size, or no peer runs here.
    """
    name, variant = named(variant)
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise unknown_name("peer", unknown[0], PEERS)
    size = MODELS[name][1][variant]
    check_images_shape((batch_size, image_size, image_size, 3), size.get("patch_size", 1))
    work: dict[str, Any] = dict(
        mode=mode, batch_size=batch_size, image_size=image_size, dtype=dtype
    )
    devices = describe_devices(create_mesh(jax.devices()[:1]))
    prepare = functools.partial(keep_freed_memory, batch_size * image_size**2)
    report = compare(
        lambda: in_own_process(functools.partial(ours, name, size, **work), prepare),
        {
            peer: functools.partial(
                in_own_process, functools.partial(PEERS[peer], name, size, **work)
            )
            for peer in peers
        },
        batch_size=batch_size,
        seconds=seconds,
        windows=windows,
    )
    versions = {package: _version(package) for package in ("flax", "torch", "timm")}
    return {"model": name, "variant": variant, **work, **devices, **versions, **report}


def ours(
    name: str, size: dict[str, Any], *, mode: str, batch_size: int, image_size: int, dtype: str
) -> Workload:
    """Returns our training step or inference on one device; `size` has the model's dimensions.

    Mixup, stochastic depth and weight decay are off, as for the peers. Unlike theirs, our step also
    normalises uint8 images, expands the labels to one-hot, and computes the gradient norm to log.
    """
    model = build_model(name, num_classes=workloads.NUM_CLASSES, dtype=dtype, **size)
    mesh = create_mesh(jax.devices()[:1])
    if mode == "infer":
        return workloads.inference(model, batch_size=batch_size, image_size=image_size, mesh=mesh)
    return workloads.training(
        model,
        batch_size=batch_size,
        image_size=image_size,
        mesh=mesh,
        mixup_alpha=0.0,
        weight_decay=0.0,
    )


def compare(
    ours: Callable[[], Workload],
    peers: Mapping[str, Callable[[], Workload]],
    *,
    batch_size: int,
    seconds: float,
    windows: int,
) -> dict[str, Any]:
    """Times our workload and those of the peers in alternation; returns a JSON-compatible dict.

    Each window of a peer is preceded by one of ours. `peers` has one row per peer, with the median,
    min and max of its `images_per_s`, of `ours_images_per_s`, and of their `ratio`, ours / peer,
    taken pair by pair. `skipped` maps each peer that is not installed or fails to the reason.

    Raises:
      ValueError: all peers were skipped.
    """
    running, skipped = {}, {}
    our_work = ours()
    our_calls = warm_up(our_work, seconds)
    for name, build in peers.items():
        try:
            work = build()
            running[name] = (work, warm_up(work, seconds))
        except (ImportError, RuntimeError) as error:
            first_line = str(error).strip().partition("\n")[0]
            skipped[name] = f"{type(error).__name__}: {first_line}"
    if not running:
        raise ValueError(f"No peer runs here: {skipped}. Install one, or choose another.")
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in running}
    for _ in range(windows):
        for name, (work, calls) in running.items():
            pairs[name].append((_pace(our_work, our_calls), _pace(work, calls)))
    rows = [
        {
            "peer": name,
            "ours_images_per_s": spread([batch_size * mine for mine, _ in pairs[name]]),
            "images_per_s": spread([batch_size * theirs for _, theirs in pairs[name]]),
            "ratio": spread([mine / theirs for mine, theirs in pairs[name]]),
            "compile_s": work.compile_s,
        }
        for name, (work, _) in running.items()
    ]
    return {"compile_s": our_work.compile_s, "peers": rows, "skipped": skipped}


def _pace(work: Workload, calls: int) -> float:
    work.run(1)  # not timed: the other process has displaced the caches
    return time_calls(work, calls)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
