"""StableHLO: a file of `jax.export`, which JAX runs without Flax and without this project."""

import pathlib
from collections.abc import Sequence

import jax
from jax import export

from mixer.errors import unknown_name
from mixer.export.program import Program, check_fits_in_file

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write_stablehlo(program: Program, path: pathlib.Path, platforms: Sequence[str]) -> None:
    """Writes a file with the parameters in it, for batches of any size.

    JAX reads it for about six months after the version that wrote it: for deployment, not to keep.

    Raises:
      ValueError: a platform is unknown or there is none, or the file would be too large.
    """
    for platform in platforms:
        if platform not in PLATFORMS:
            raise unknown_name("platform", platform, PLATFORMS)
    if not platforms or len(set(platforms)) < len(platforms):
        raise ValueError(
            f"Expected each platform once, such as cpu,cuda,tpu; got {','.join(platforms)!r}."
        )
    check_fits_in_file(program, "StableHLO")
    (batch,) = export.symbolic_shape("b")
    size = program.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), program.image_dtype)
    function = jax.jit(lambda images: program.portable(program.params, images))
    path.write_bytes(export.export(function, platforms=platforms)(images).serialize())
