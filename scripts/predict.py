"""Classifies images: prints the most probable classes of each, and draws them in a picture.

python scripts/predict.py IMAGE... --weights=SOURCE

Example: python scripts/predict.py cat.jpg --weights=imagenet1k/Mixer-B_16

Images are JPEG or PNG files. SOURCE is a published name, a .npz or .safetensors file, or the
workdir of a run.
"""

import os
import pathlib

from absl import app, flags, logging

from mixer.runtime import startup
from mixer.runtime.watchdog import end_if_idle

# Before TensorFlow is imported.
startup.quiet_libraries()
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_WEIGHTS = flags.DEFINE_string("weights", None, "Weights to use; see above.", required=True)
_TOP = flags.DEFINE_integer("top", 5, "Number of classes to show per image.", 1, 20)
_OUTPUT = flags.DEFINE_string("output", "predictions.png", "PNG file to write the picture to.")
_CLASS_NAMES = flags.DEFINE_string(
    "class_names", None, "File with one class name per line. Default: as in the run, or ImageNet's."
)
_CROP = flags.DEFINE_string(
    "crop", None, "resmall_crop or resize_crop (Appendix C). Default: as in the run, or the first."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Image side in pixels. Default: the side in training.", 1
)
_EVAL_RESIZE = flags.DEFINE_integer(
    "eval_resize", None, "Side before the crop, pixels. Default: as in the run, or 256 for 224.", 1
)
_GELU = flags.DEFINE_enum(
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or tanh."
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    paths = [pathlib.Path(argument) for argument in argv[1:]]
    output = pathlib.Path(_OUTPUT.value)
    end_if_idle()
    try:
        _check_files(paths, output)
        _predict(paths, output)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def _check_files(paths: list[pathlib.Path], output: pathlib.Path) -> None:
    """Raises ValueError early for mistakes that would otherwise surface after a long load."""
    if not paths:
        raise ValueError(
            "Expected image files; got none. Usage: python scripts/predict.py IMAGE..."
        )
    for path in paths:
        if not path.is_file():
            raise ValueError(f"Expected an image file; there is no file {path}.")
    if output.suffix != ".png" or not output.parent.is_dir():
        raise ValueError(f"Expected --output=NAME.png in an existing folder; got {output}.")
    if output.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"Expected --output to differ from the images; got {output}.")


def _predict(paths: list[pathlib.Path], output: pathlib.Path) -> None:
    # After flag parsing, since JAX takes seconds.
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
