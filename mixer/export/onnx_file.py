"""ONNX: a file that onnxruntime and others run. It needs jax2onnx, which is optional."""

import contextlib
import io
import logging
import pathlib

import jax
import jax.numpy as jnp

from mixer.export.program import Program, check_fits_in_file


def write_onnx(program: Program, path: pathlib.Path) -> None:
    """Writes a file with the parameters in it, for batches of any size.

    Raises:
      ValueError: activations are not float32, or the file would be too large.
    """
    dtype = jnp.dtype(program.model.dtype).name
    if dtype != "float32":
        raise ValueError(
            "Expected float32 activations for ONNX, as jax2onnx writes no valid graph of others; "
            f"got {dtype}. Use --dtype=float32."
        )
    check_fits_in_file(program, "ONNX")
    # It tells of plugins for other libraries that it cannot load, and prints what it converts.
    logging.getLogger("jax2onnx").setLevel(logging.CRITICAL)
    from jax2onnx import to_onnx

    size = program.image_size
    with contextlib.redirect_stdout(io.StringIO()):
        proto = to_onnx(
            lambda images: program.portable(program.params, images),
            inputs=[jax.ShapeDtypeStruct(("B", size, size, 3), program.image_dtype)],
            input_names=["images"],
            output_names=[program.output_name],
            model_name=type(program.model).__name__,
        )
    path.write_bytes(proto.SerializeToString())
