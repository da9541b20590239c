"""Our model beside other implementations, in turns in one run, so that a slow minute hits both."""

import functools
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from mixer.benchmark import workloads
from mixer.benchmark.throughput import describe_devices
from mixer.benchmark.timing import Workload, spread, time_calls, warm_up
from mixer.errors import unknown_name
from mixer.models import build_model
from mixer.models.mixer import VARIANTS, check_images_shape
from mixer.runtime.startup import keep_freed_memory
from mixer.sharding import create_mesh
from tests.peers.own_process import in_own_process
from tests.peers.plain_flax import plain_flax
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
    """Returns what `compare` does, of our Mixer and the named `PEERS`, and what it was measured on.

    All of them train or infer the same size on one device, with the same batch size and `dtype`,
    each in a process as its users would have it: ours keeps freed memory, as our programs do.

    Raises:
      ValueError: unknown variant or peer, images that do not split into patches, or no peer runs.
    """
    if variant not in VARIANTS:
        raise unknown_name("variant of mixer", variant, VARIANTS)
    unknown = [name for name in peers if name not in PEERS]
    if unknown:
        raise unknown_name("peer", unknown[0], PEERS)
    size = VARIANTS[variant]
    check_images_shape((batch_size, image_size, image_size, 3), size["patch_size"])
    work: dict[str, Any] = dict(
        mode=mode, batch_size=batch_size, image_size=image_size, dtype=dtype
    )
    devices = describe_devices(create_mesh(jax.devices()[:1]))
    report = compare(
        lambda: in_own_process(functools.partial(ours, size, **work), keep_freed_memory),
        {
            name: functools.partial(in_own_process, functools.partial(PEERS[name], size, **work))
            for name in peers
        },
        batch_size=batch_size,
        seconds=seconds,
        windows=windows,
    )
    versions = {name: _version(name) for name in ("flax", "torch", "timm")}
    return {"variant": variant, **work, **devices, **versions, **report}


def ours(
    size: dict[str, Any], *, mode: str, batch_size: int, image_size: int, dtype: str
) -> Workload:
    """Returns our training step or inference of a size of `VARIANTS` on one device.

    Mixup, stochastic depth and weight decay are off, which the peers do not do. What they are
    spared is not: bytes to floats, numbers to class vectors, the gradient's norm for the log.
    """
    model = build_model("mixer", num_classes=workloads.NUM_CLASSES, dtype=dtype, **size)
    mesh = create_mesh(jax.devices()[:1])
    if mode == "infer":
        return workloads.inference(model, batch_size=batch_size, image_size=image_size, mesh=mesh)
    return workloads.training(
        model, batch_size=batch_size, image_size=image_size, mesh=mesh, **workloads.PLAIN_STEP
    )


def compare(
    ours: Callable[[], Workload],
    peers: Mapping[str, Callable[[], Workload]],
    *,
    batch_size: int,
    seconds: float,
    windows: int,
) -> dict[str, Any]:
    """Returns an entry for each peer: images/s, ours beside it, and the ratio, each with spread.

    A window of ours comes before each window of a peer; `ratio` is ours / peer, pair by pair.
    `skipped` tells why a peer has no entry: it is not installed, or does not run here.

    Raises:
      ValueError: all peers are skipped.
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
        raise ValueError(f"No peer runs here: {skipped}. Install one, or name another.")
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
    work.run(1)  # not counted: the other had the machine, its caches and its memory
    return time_calls(work, calls)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
