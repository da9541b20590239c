"""Compiles for a slice and keeps what is read from the program, since compiling takes minutes.

A file of the cache is named by the program before compilation, the slice and the versions of the
compiler, so that it never answers for anything else.
"""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

_GIB = 2**30
# libtpu's messages for a program that does not fit, with the memory needed and available.
_SIZE = r"([\d.]+)([MG])"
_OUT_OF_MEMORY = rf"(?:Used |temporaries \(){_SIZE}\)? (?:of|exceeds available HBM) \(?{_SIZE}"
_COMPILER = ("jax", "jaxlib", "libtpu")


@dataclasses.dataclass(frozen=True)
class Program:
    """What is known of a compiled program, per device; one that does not fit has no text."""

    text: str  # HLO, after optimisation
    optimal_seconds: float  # the compiler's estimate; negative or too small if it has unknowns
    arguments_gib: float
    temp_gib: float
    peak_hbm_gib: float  # arguments, outputs, temporaries and code; the request if it does not fit
    available_gib: float | None  # if it does not fit
    compile_s: float  # when it was compiled


def compile_program(step: Any, *args: Any, mesh: Mesh) -> Program:
    """Compiles a jitted function for the devices of the mesh, or reads what an earlier call kept.

    Raises:
      jax.errors.JaxRuntimeError: the compiler failed, other than for lack of memory.
    """
    start = time.monotonic()
    lowered = step.lower(*args)
    path = _cache_file(lowered.as_text(), mesh)
    if kept := _read(path):
        return kept
    program = _compile(lowered, start)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_bytes(gzip.compress(json.dumps(dataclasses.asdict(program)).encode()))
        unfinished.replace(path)
    except OSError:
        pass  # no room or no right to write: the next call compiles again
    return program


def _read(path: pathlib.Path) -> Program | None:
    try:
        return Program(**json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, EOFError, ValueError, TypeError):  # none, or damaged: it is written again
        return None


def cache_folder() -> pathlib.Path:
    """Returns the folder of the kept programs, about half a megabyte each."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser() / "mixer" / "rehearsed"


def _cache_file(text: str, mesh: Mesh) -> pathlib.Path:
    devices = [
        (device.device_kind, device.id, device.process_index) for device in mesh.devices.flat
    ]
    versions = [_version(package) for package in _COMPILER]
    options = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    key = json.dumps([text, devices, versions, options]).encode()
    return cache_folder() / f"{hashlib.sha256(key).hexdigest()}.json.gz"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # libtpu, where it compiles nothing
        return ""


def _compile(lowered: Any, start: float) -> Program:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(_OUT_OF_MEMORY, str(error))
        if not used:
            raise
        peak, limit = (_gib(used[1], used[2]), _gib(used[3], used[4]))
        return Program("", 0.0, 0.0, 0.0, peak, limit, time.monotonic() - start)
    memory = compiled.memory_analysis()
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        text=compiled.as_text(),
        optimal_seconds=compiled.cost_analysis().get("optimal_seconds", 0.0),
        arguments_gib=arguments / _GIB,
        temp_gib=temporaries / _GIB,
        peak_hbm_gib=(arguments + temporaries + outputs + memory.generated_code_size_in_bytes)
        / _GIB,
        available_gib=None,
        compile_s=time.monotonic() - start,
    )


def _gib(number: str, unit: str) -> float:
    return float(number) / (1024 if unit == "M" else 1)
