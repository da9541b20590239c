"""Freed memory stays in the process, where JAX computes on a CPU."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

from mixer.runtime import startup

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


PLATFORM = """
import glob, importlib.util, os, sys
from mixer.runtime import startup
startup._TPU_FILES = (sys.argv[2],)
installed = sys.argv[1].split(",")
importlib.util.find_spec = lambda name: name in installed or None
startup.avoid_absent_tpu()
print(os.environ.get("JAX_PLATFORMS"))
"""


@pytest.mark.parametrize(
    ("installed", "device", "given", "expected"),
    [
        ("libtpu", "no_file", None, "cpu"),
        ("libtpu", "accel[0-9]", None, "None"),  # a TPU: JAX finds it
        ("libtpu", "no_file", "tpu", "tpu"),
        ("libtpu,jax_plugins", "no_file", None, "None"),  # perhaps a GPU: JAX looks
        ("", "no_file", None, "None"),
    ],
)
def test_the_platform_is_one_that_exists(tmp_path, installed, device, given, expected):
    (tmp_path / "accel0").touch()
    environment = {**os.environ, "JAX_PLATFORMS": given or ""}
    if given is None:
        del environment["JAX_PLATFORMS"]
    done = subprocess.run(
        [sys.executable, "-c", PLATFORM, installed, str(tmp_path / device)],
        cwd=pathlib.Path(__file__).parent.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == expected


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs requirements-tpu.txt")
def test_libtpu_without_a_tpu_is_not_heard_of(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mixer.main", "--config=configs/digits.py"),
            *(
                f"--workdir={tmp_path}",
                "--config.num_epochs=3.0",
                "--config.optimizer.warmup_steps=1",
            ),
        ],
        cwd=pathlib.Path(__file__).parent.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    heard = (done.stdout + done.stderr).lower()
    assert "tpu" not in heard.replace(str(tmp_path), "")
    assert "cpu" in heard


LOOPS = "--xla_jf_spmd_threshold_for_windowed_einsum_mib"


@pytest.mark.parametrize("given", ["", "--xla_a=1", f"{LOOPS}=5"])
def test_the_options_of_the_tpu_compiler_are_added_to_those_of_the_user(given, monkeypatch):
    monkeypatch.setenv("LIBTPU_INIT_ARGS", given)
    for _ in range(2):  # once, however often
        startup.keep_tpu_products_whole()
    expected = {"": f"{LOOPS}=1000000", "--xla_a=1": f"{LOOPS}=1000000 --xla_a=1"}
    assert os.environ["LIBTPU_INIT_ARGS"] == expected.get(given, given)
