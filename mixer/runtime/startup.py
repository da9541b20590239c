"""What the C library does with memory that the process frees."""

import ctypes
import importlib.util
import os

# Options of mallopt(3), of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Keeps freed memory for the next allocation, if JAX will compute on the CPU of this machine.

    XLA allocates the temporaries of a step anew each time, gigabytes in one piece. By default they
    go back to the system after the step and come again as zeroed pages, one fault each: a sixth of
    the training step of S/16 on a CPU (docs/performance.md). The price: all threads share one
    arena, which small models and fast input feel. To be called before the process has threads.
    Nothing happens where JAX has an accelerator, nor without glibc.
    """
    if _expects_accelerator():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)


def _expects_accelerator() -> bool:
    """Tells whether JAX would look for one. Asking JAX itself would start its threads."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms != "cpu"
    return any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))
