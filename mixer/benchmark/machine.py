"""Which card, driver, packages and memory a GPU report is about."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import psutil

_GIB = 2**30
_JAX_SHARE = 0.75  # of a GPU's memory, which JAX takes by default


def describe_machine(
    device: str, *, with_peers: bool
) -> tuple[dict[str, str], dict[str, str], float]:
    """Returns the environment of the programs, the description, and the memory for JAX in GiB.

    `device` is "gpu" or "cpu". Of several GPUs the programs see the first.

    Raises:
      ValueError: there is no NVIDIA GPU, or JAX does not find it.
    """
    environment = {"JAX_PLATFORMS": {"gpu": "cuda,cpu", "cpu": "cpu"}[device]}
    if device == "cpu":
        limit_gib = psutil.virtual_memory().available / _GIB
        described = {"card": f"none, {_cpu()}", "driver": "none"}
    else:
        card, driver, memory = _first_card()
        limit_gib = _JAX_SHARE * memory / 1024
        described = {"card": card, "driver": driver, "memory": f"{memory / 1024:.1f} GiB"}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        environment["CUDA_VISIBLE_DEVICES"] = visible  # one card, as the peers have
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # that of nvidia-smi
        _check_jax(environment)
    dtype = "float32" if device == "cpu" else "bfloat16"
    described |= {"precision": dtype, "python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", *(("torch", "timm") if with_peers else ())):
        try:
            described[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            described[package] = "not installed"
    described["date"] = datetime.date.today().isoformat()
    return environment, described, limit_gib


def _first_card() -> tuple[str, str, float]:
    """Returns the first visible card's name and driver, and its memory in MiB."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--id={visible}", *query], capture_output=True, text=True, check=True
        )
        name, driver, memory = (part.strip() for part in found.stdout.splitlines()[0].split(","))
        return name, driver, float(memory)
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        raise ValueError(
            f"Expected an NVIDIA GPU that nvidia-smi shows; got: {error}. Without one, try the "
            "report with --device=cpu --miniature."
        ) from None


def _check_jax(environment: dict[str, str]) -> None:
    """Raises ValueError if JAX does not find the card; each row would fail with that alone."""
    program = "import jax; jax.devices()"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or [f"exit {found.returncode}"])[-1]
        raise ValueError(
            f"Expected JAX to find the GPU; got: {reason}. Install requirements-gpu.txt, and a "
            "driver that supports CUDA 13."
        )


def _cpu() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.processor()}"
