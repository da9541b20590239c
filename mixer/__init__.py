"""MLP-Mixer in JAX and Flax: pre-training, fine-tuning and evaluation, as in arXiv:2105.01601.

In Python: `mixer.load`. Nothing is imported with this package; JAX comes with the first call,
TensorFlow with the first image.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from jax.typing import DTypeLike

    from mixer.evaluation.prediction import Predictor

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    source: "str | os.PathLike[str]",
    *,
    image_size: int | None = None,
    gelu: str | None = None,
    dtype: "DTypeLike | None" = None,
    class_names: str | None = None,
    crop: str | None = None,
    eval_resize: int | None = None,
) -> "Predictor":
    """Returns a model with its parameters, class names and preprocessing, ready for images.

    Warns of what `source` does not record and has to be assumed.

    Args:
      source: a published name such as `imagenet1k/Mixer-B_16` (downloaded once), a `.npz` or
        `.safetensors` file, the workdir of a run or one of its checkpoints, or a folder with
        `config.json` and `model.safetensors`, as timm writes for the Hugging Face hub.
      image_size: side in pixels; by default, that of the weights.
      gelu: `tanh` or `exact`; by default, what `source` records, or what is usual.
      dtype: of the activations; by default, the run's, or float32.
      class_names: a file with one name per line, in label order; by default, those that `source`
        records, or ImageNet's for 1,000 classes.
      crop: `resmall_crop` or `resize_crop` (Appendix C); by default, the run's, or the first.
      eval_resize: side in pixels before the crop; by default, the run's, or 256 for 224.

    Raises:
      ValueError: the weights cannot be loaded or resized, or an argument does not fit them.
      OSError: the file of class names cannot be read.
    """
    from mixer.evaluation import prediction

    return prediction.load(
        source,
        image_size=image_size,
        gelu=gelu,
        dtype=dtype,
        class_names=class_names,
        crop=crop,
        eval_resize=eval_resize,
    )
