"""Freed memory stays in the process, where JAX computes on a CPU."""

import os
import pathlib
import subprocess
import sys

import pytest

# Page faults of allocating 128 MiB for the second time.
PROGRAM = """
import resource
import numpy as np
from mixer.runtime.startup import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**24, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool, platforms: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)],
        cwd=pathlib.Path(__file__).parent.parent.parent,
        env={**os.environ, "JAX_PLATFORMS": platforms, "NUMPY_MADVISE_HUGEPAGE": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(result.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_memory_is_kept_on_a_cpu_alone():
    assert faults(keep=False, platforms="cpu") > 30_000  # 32,768 pages of 4 KiB
    assert faults(keep=True, platforms="tpu,cpu") > 30_000
    assert faults(keep=True, platforms="cpu") < 100
