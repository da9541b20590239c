"""Writes an export, and gives it its name once another process has computed the same with it."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mixer.batch import normalize_images
from mixer.errors import unknown_name
from mixer.evaluation.classification import check_outputs
from mixer.export import read_back
from mixer.export.onnx_file import write_onnx
from mixer.export.program import Program, program_of
from mixer.export.savedmodel import write_savedmodel
from mixer.export.stablehlo import write_stablehlo
from mixer.runtime.packages import check_installed
from mixer.weights.load import LoadedModel

# Format -> the packages that are needed besides those of the project.
FORMATS: dict[str, list[str]] = {
    "stablehlo": [],
    "onnx": ["jax2onnx>=0.13,<0.14", "onnxruntime"],
    "savedmodel": [],
}
PLATFORMS = ("cpu", "cuda", "tpu")
BATCH_SIZES = (1, 3)

# Largest difference from the model in float32, relative to the largest output.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Check:
    """How an export compares with the model that it was made of."""

    difference: float  # relative to the largest output
    seconds: float  # of the largest batch, in its runtime
    model_seconds: float  # the same here


@dataclasses.dataclass(frozen=True)
class Export:
    """An export that was written and read back."""

    program: Program
    path: pathlib.Path
    num_bytes: int  # of all files
    check: Check


def write_export(
    loaded: LoadedModel,
    path: pathlib.Path,
    form: str,
    *,
    with_preprocessing: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> Export:
    """Writes `path`, a file or for SavedModel a folder, in a format of `FORMATS`.

    Its own runtime reads it in another process, on a CPU, and runs batches of `BATCH_SIZES`; only
    then it gets its name. `platforms` are those of StableHLO (see `write_stablehlo`).

    Raises:
      ValueError: a package is missing, `path` exists or has no folder, the model cannot be
        exported in this format, or what was read back differs from the model.
      OSError: something cannot be written.
    """
    path = path.absolute()
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    check_installed(FORMATS[form], f"for the format {form}")
    if path.exists() or path.is_symlink() or not path.parent.is_dir():
        raise ValueError(f"Expected a new name in an existing folder; got {path}. Choose another.")
    program = program_of(loaded, with_preprocessing=with_preprocessing)
    # TensorFlow and onnxruntime may look at a suffix, so it stays.
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
        unfinished = pathlib.Path(folder) / path.name
        if form == "stablehlo":
            write_stablehlo(program, unfinished, platforms)
        elif form == "onnx":
            write_onnx(program, unfinished)
        else:
            write_savedmodel(program, unfinished)
        check = check_export(program, unfinished, form)
        files = [unfinished, *unfinished.rglob("*")]
        num_bytes = sum(file.stat().st_size for file in files if file.is_file())
        unfinished.rename(path)
    return Export(program, path, num_bytes, check)


def check_export(program: Program, path: pathlib.Path, form: str) -> Check:
    """Compares what its runtime computes in another process with the model.

    The difference is the largest of all batches. Outputs in float32 are compared with those of the
    model as it is used here, in bfloat16 with those of the exported branches. Compilers fuse, and
    so round, differently: by no more than bfloat16 changes the outputs of the float32 model.

    Raises:
      ValueError: the runtime cannot read it, or the difference is too large.
      FloatingPointError: an output of the model is not finite.
    """
    is_exact = jnp.dtype(program.model.dtype) == jnp.float32
    function = jax.jit(program if is_exact else program.portable)
    batches = {str(size): _images(program, size) for size in BATCH_SIZES}
    wanted = {name: np.asarray(function(program.params, x)) for name, x in batches.items()}
    found = _read_back(path, form, batches)
    differences = []
    for name, outputs in wanted.items():
        check_outputs(program.output_name, bool(np.isfinite(outputs).all()))
        if found[name].shape != outputs.shape or found[name].dtype != outputs.dtype:
            raise ValueError(
                f"Expected {program.output_name} {outputs.dtype} {outputs.shape} of the {form} "
                f"export; got {found[name].dtype} {found[name].shape}. Nothing was written."
            )
        differences.append(relative_difference(found[name], outputs))
    difference, tolerance = float(np.max(differences)), _TOLERANCE
    if not is_exact:
        exact = dataclasses.replace(program, model=program.model.clone(dtype=jnp.float32))
        in_float32 = jax.jit(exact.portable)
        tolerance = max(
            relative_difference(wanted[name], np.asarray(in_float32(program.params, x)))
            for name, x in batches.items()
        )
    if not difference <= tolerance:  # also if it is NaN
        raise ValueError(
            f"Expected the {form} export to compute what the model does, up to {tolerance:.1e} of "
            f"the largest output; got a difference of {difference:.1e}. Nothing was written; use "
            "another format, or --dtype=float32."
        )
    largest = list(batches.values())[-1]
    model_seconds = read_back.best_time(lambda x: np.asarray(function(program.params, x)), largest)
    return Check(difference, float(found["seconds"]), model_seconds)


def relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest difference, divided by the largest of the wanted values."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _images(program: Program, count: int) -> np.ndarray:
    size = program.image_size
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return (
        images if program.with_preprocessing else np.asarray(normalize_images(jnp.asarray(images)))
    )


def _read_back(
    path: pathlib.Path, form: str, batches: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the outputs of the export for each batch, computed in another process."""
    # -P: the files beside it hide no packages of the same names.
    command = [sys.executable, "-P", str(pathlib.Path(read_back.__file__)), form, str(path)]
    on_cpu = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    with tempfile.TemporaryDirectory() as folder:
        images, outputs = f"{folder}/images.npz", f"{folder}/outputs.npz"
        np.savez(images, allow_pickle=False, **batches)
        done = subprocess.run(
            [*command, images, outputs],
            env={**os.environ, **on_cpu},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise ValueError(
                f"Expected the {form} export to be readable by its runtime; it failed in another "
                f"process. Nothing was written. It ended with:\n{done.stderr[-2000:]}"
            )
        with np.load(outputs) as arrays:
            return dict(arrays)
