"""What a program sets before JAX and TensorFlow are loaded and its threads start."""

import ctypes
import gc
import glob
import importlib.util
import os
import pathlib

# Options of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8

_QUICK_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",  # 2.5 times as quick
    "--xla_cpu_parallel_codegen_split_count=1",
)

_LOOPS_FROM_MIB = "xla_jf_spmd_threshold_for_windowed_einsum_mib"

# Files of the driver of a TPU, by generation.
_TPU_FILES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_GOOGLE, _NETWORK_OR_STORAGE = "0x1ae0", ("0x01", "0x02")  # vendor and classes of PCI devices

# From this many pixels per batch on, keeping freed memory gains more than sharing one arena costs:
# S/16 with 32 images of 224 x 224 gains 15% of a step, the model of the digits would lose 20%.
_MANY_PIXELS = 1_000_000


def quiet_libraries() -> None:
    """Lets TensorFlow log errors only and not load Keras; call it before TensorFlow is imported.

    TensorFlow would load all of Keras, and SciPy and scikit-learn with it, unless it looks for the
    older Keras, which is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # It logs a line where oneDNN is not turned off; no operation of the input uses it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")


def avoid_absent_tpu() -> None:
    """Keeps JAX from starting libtpu on a machine without a TPU; call it before JAX is imported.

    libtpu is there to compile for a TPU (scripts/rehearse_tpu.py). Otherwise JAX would start it in
    every program, which takes seconds and prints a dozen lines. Nothing is changed where another
    accelerator's plugin is installed or JAX_PLATFORMS is set.
    """
    installed = [importlib.util.find_spec(name) is not None for name in ("libtpu", "jax_plugins")]
    if installed == [True, False] and "JAX_PLATFORMS" not in os.environ and not _has_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def keep_tpu_products_whole() -> None:
    """Lets the TPU compiler gather weights that are divided over devices; before JAX is imported.

    From v4 on it would compute with them in loops, part by part, and copy the activations between
    layouts for these: 28% of the step of B/16 on v4, by rehearsal (docs/performance.md). An option
    of the user's in LIBTPU_INIT_ARGS is kept.
    """
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    if _LOOPS_FROM_MIB not in given:
        os.environ["LIBTPU_INIT_ARGS"] = f"--{_LOOPS_FROM_MIB}=1000000 {given}".rstrip()


def _has_tpu() -> bool:
    """True if the driver's files are there, or a PCI device of Google's that may be a TPU.

    The latter, as JAX looks for it: in a container that lacks the files it says what is wrong.
    """
    if any(glob.glob(pattern) for pattern in _TPU_FILES):
        return True
    for vendor in map(pathlib.Path, glob.glob("/sys/bus/pci/devices/*/vendor")):
        kind = vendor.with_name("class").read_text()
        if vendor.read_text().strip() == _GOOGLE and not kind.startswith(_NETWORK_OR_STORAGE):
            return True
    return False


def collect_garbage_rarely() -> None:
    """Keeps Python from searching modules and traces for garbage: a sixth of the start of a run."""
    gc.set_threshold(100_000)


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in a folder for later runs; "": nowhere. It may be in a bucket."""
    if folder:
        import jax

        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        # A resumed run needs a dozen small programs for the checksums, half a second's worth.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compile_quickly() -> None:
    """Lets XLA compile for a CPU in a quarter of the time, programs that are slower; before JAX.

    For tiny models and few steps: a step of these takes milliseconds, its compilation seconds.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    given = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{' '.join(_QUICK_FLAGS)} {given}"


def keep_freed_memory(pixels_per_batch: int = _MANY_PIXELS) -> None:
    """Keeps freed memory for the next allocation, if JAX computes large batches on the CPU.

    XLA allocates the temporaries of each step again, gigabytes in one piece. By default they go
    back to the system after the step and return as zeroed pages, with a page fault each: a sixth of
    the training step of S/16 on a CPU (docs/performance.md). The price is one arena for all
    threads, which slows small models and a fast input. Call it before the process has threads. It
    does nothing where JAX has an accelerator, or without glibc.
    """
    if pixels_per_batch < _MANY_PIXELS or _expects_accelerator():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def _expects_accelerator() -> bool:
    """True if JAX would look for one. Asking JAX itself would start its threads."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms != "cpu"
    return any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
