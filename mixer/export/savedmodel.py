"""TensorFlow SavedModel: a folder that TensorFlow and its servers run without JAX."""

import pathlib

import jax.numpy as jnp

from mixer.export.program import Program

_PLATFORMS = ("cpu", "cuda", "tpu")


def write_savedmodel(program: Program, folder: pathlib.Path) -> None:
    """Writes a folder, whose signature `serving_default` takes batches of any size."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    function = jax2tf.convert(
        program.portable,
        polymorphic_shapes=[None, "(b, ...)"],
        with_gradient=False,
        native_serialization_platforms=_PLATFORMS,
    )
    size = program.image_size
    dtype = tf.dtypes.as_dtype(jnp.dtype(program.image_dtype))
    module = tf.Module()
    module.params = tf.nest.map_structure(tf.Variable, program.params)

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {program.output_name: function(module.params, images)}

    module.serve = tf.function(
        serve,
        autograph=False,
        jit_compile=True,
        input_signature=[tf.TensorSpec((None, size, size, 3), dtype, name="images")],
    )
    signatures = {"serving_default": module.serve.get_concrete_function()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
