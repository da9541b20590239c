"""Classifies images: prints the most probable classes of each, and writes a picture or a table.

python scripts/predict.py IMAGE... --weights=SOURCE [--output=FILE.png|.csv|.json]

Example: python scripts/predict.py cat.jpg --weights=imagenet1k/Mixer-B_16
         python scripts/predict.py photos 'more/**/*.png' --weights=runs/mine --output=photos.csv

IMAGE is a file, a folder (all images in it and in its folders) or a pattern. SOURCE is a published
name, a .npz or .safetensors file, or the workdir of a run. The true class of an image is known if
its folder is named after a class.
"""

import pathlib
import sys

from absl import flags

from mixer.runtime import command, startup
from mixer.runtime.watchdog import end_if_idle

# Before TensorFlow is imported.
startup.quiet_libraries()

_WEIGHTS = command.path_flag("weights", None, "Weights to use; see above.", required=True)
_TOP = flags.DEFINE_integer("top", 5, "Number of classes to show per image.", 1, 20)
_OUTPUT = command.path_flag(
    "output", "predictions.png", "File to write: a picture .png, or a table .csv or .json."
)
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "csv", "json"], "What is printed.")
_CLASS_NAMES = command.path_flag(
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
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or the usual one."
)


def main(arguments: list[str]) -> None:
    from mixer.evaluation.image_paths import find_images

    end_if_idle()
    output = pathlib.Path(_OUTPUT.value)
    target = output.resolve()  # of a link, what is written
    if (
        output.suffix not in (".png", ".csv", ".json")
        or not target.parent.is_dir()
        or (target.exists() and not target.is_file())
    ):
        raise ValueError(
            f"Expected --output=NAME.png, .csv or .json in an existing folder; got {output}"
            f"{', a folder' if target.is_dir() else ''}. Choose another name."
        )
    paths = find_images(arguments)
    if target in [path.resolve() for path in paths]:
        raise ValueError(f"Expected --output to differ from the images; got {output}.")
    weights = pathlib.Path(_WEIGHTS.value)
    read = [weights, weights / "config.json", pathlib.Path(_CLASS_NAMES.value or "")]
    if target in [path.resolve() for path in read]:
        raise ValueError(
            f"Expected --output to differ from the weights and the class names; got {output}. "
            "Choose another name."
        )
    _predict(paths, output)


def _predict(paths: list[pathlib.Path], output: pathlib.Path) -> None:
    # After flag parsing, since JAX takes seconds.
    from mixer.evaluation.class_names import find_class_names
    from mixer.evaluation.prediction import MAX_DRAWN, predict
    from mixer.evaluation.prediction_picture import draw_predictions
    from mixer.evaluation.prediction_table import FORMATS, replace_file
    from mixer.weights.load import load_model

    loaded = load_model(_WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value)
    if loaded.assumed:
        print(loaded.assumed, file=sys.stderr, flush=True)
    class_names = find_class_names(loaded, _CLASS_NAMES.value)
    predictions = predict(
        loaded, paths, class_names, top=_TOP.value, crop=_CROP.value, resize=_EVAL_RESIZE.value
    )
    print(FORMATS[_FORMAT.value](predictions), end="")
    if output.suffix == ".png":
        draw_predictions(predictions, output)
        what = "Picture" + (f" of the first {MAX_DRAWN}" if len(paths) > MAX_DRAWN else "")
    else:
        replace_file(output, FORMATS[output.suffix[1:]](predictions).encode())
        what = "Table"
    # Not among what another program reads.
    print(f"{what}: {output}", file=sys.stdout if _FORMAT.value == "text" else sys.stderr)


if __name__ == "__main__":
    command.run(main, takes_arguments=True)
