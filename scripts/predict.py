"""Names what is in images: python scripts/predict.py IMAGE... --weights=SOURCE

Example: python scripts/predict.py cat.jpg --weights=imagenet1k/Mixer-B_16

Prints the most probable classes of each image (JPEG or PNG) and draws them beside it. SOURCE is a
name of the catalogue of published weights, a .npz or .safetensors file, or the workdir of a run.
"""

import os
import pathlib

from absl import app, flags, logging

# Before TensorFlow is loaded: only its errors, and not all of Keras (see mixer/main.py).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_WEIGHTS = flags.DEFINE_string("weights", None, "The weights, see above.", required=True)
_TOP = flags.DEFINE_integer("top", 5, "Classes of each image.", lower_bound=1, upper_bound=20)
_OUTPUT = flags.DEFINE_string("output", "predictions.png", "The picture to write.")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names",
    None,
    "A file with one name a line. Without it, the names that came with the weights, or ImageNet's "
    "if there are 1,000 classes.",
)
_CROP = flags.DEFINE_string(
    "crop",
    None,
    "resmall_crop or resize_crop (Appendix C); without it that of the run, or resmall_crop.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Side in pixels; else that of the training.", lower_bound=1
)
_EVAL_RESIZE = flags.DEFINE_integer(
    "eval_resize",
    None,
    "Side before the crop; else that of the run, or 256 for 224.",
    lower_bound=1,
)
_GELU = flags.DEFINE_enum("gelu", None, ["tanh", "exact"], "Else what the weights need.")


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    paths = [pathlib.Path(argument) for argument in argv[1:]]
    output = pathlib.Path(_OUTPUT.value)
    try:
        _check_files(paths, output)
        _predict(paths, output)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def _check_files(paths: list[pathlib.Path], output: pathlib.Path) -> None:
    """Raises ValueError for what would be found only after the weights have been loaded."""
    if not paths:
        raise ValueError("Expected image files; got none: python scripts/predict.py IMAGE... ")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"Expected an image file; there is no file {path}.")
    if output.suffix != ".png" or not output.parent.is_dir():
        raise ValueError(f"Expected --output=NAME.png in a folder that exists; got {output}.")
    if output.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"Expected --output beside the images; it would overwrite {output}.")


def _predict(paths: list[pathlib.Path], output: pathlib.Path) -> None:
    # After the flags: JAX takes seconds.
    from mixer.evaluation.class_names import find_class_names
    from mixer.evaluation.prediction import MAX_DRAWN, draw_predictions, predict
    from mixer.weights.load import load_model

    loaded = load_model(_WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value)
    predictions = predict(
        loaded,
        paths,
        find_class_names(loaded, _CLASS_NAMES.value),
        top=_TOP.value,
        crop=_CROP.value,
        resize=_EVAL_RESIZE.value,
    )
    for prediction in predictions:
        print(prediction.path)
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            print(f"  {probability:7.2%}  {name}")
    draw_predictions(predictions, output)
    of_which = f" of the first {MAX_DRAWN}" if len(paths) > MAX_DRAWN else ""
    print(f"Picture{of_which}: {output}")


if __name__ == "__main__":
    app.run(main)
