"""Measures the accuracy of weights on a dataset, with their head or a few-shot linear probe.

python scripts/evaluate.py --weights=imagenet1k/Mixer-B_16 --dataset=imagenet2012

--weights takes a published name, a .npz or .safetensors file, the workdir of a run, or one of its
checkpoints. --dataset takes the same names as config.dataset; with imagenet2012_real, a prediction
is correct if it is one of the image's reassessed labels. --few_shot evaluates the features with a
linear probe, so it also works on datasets that the weights were not trained on. For the weights of
a run, the dataset and preprocessing default to those of the run. Labels are matched by the names of
the classes, where the weights record these. With more than five classes top-5 stands beside top-1.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags

from mixer.runtime import command, startup
from mixer.runtime.watchdog import end_if_idle

# Before TensorFlow is imported.
startup.quiet_libraries()

_WEIGHTS = command.path_flag("weights", None, "Weights to evaluate; see above.", required=True)
_DATASET = flags.DEFINE_string(
    "dataset", None, "Dataset to evaluate on. Default: that of the run the weights come from."
)
_SPLIT = flags.DEFINE_string(
    "split", None, "Split to evaluate on. Default: the run's eval_splits.test, or validation."
)
_DATA_DIR = command.path_flag(
    "data_dir", None, "TFDS data folder. Default: that of the run, or TFDS's own."
)
_LABEL_KEY = flags.DEFINE_string(
    "label_key", None, "Feature that is the label. Default: as in the run, or label."
)
_CROP = flags.DEFINE_list(
    "crop",
    [],
    "resmall_crop, resize_crop (Appendix C) or both. Default: as in the run, or the first.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Image side in pixels. Default: the side in training.", 1
)
_EVAL_RESIZE = flags.DEFINE_integer(
    "eval_resize", None, "Side before the crop, pixels. Default: as in the run, or 256 for 224.", 1
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images per batch, over all devices.", 1)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Activation dtype. Default: as in the run, or float32.",
)
_GELU = flags.DEFINE_enum(
    "gelu", None, ["tanh", "exact"], "Type of GELU. Default: that of the weights, or the usual one."
)
_CLASS_NAMES = command.path_flag(
    "class_names",
    None,
    "File with the dataset's name for each class of the weights, one per line in label order. "
    "Default: the weights' own names.",
)
_FEW_SHOT = flags.DEFINE_list(
    "few_shot", [], "Training images per class for a linear probe, such as 1,5,10,25."
)
_FEW_SHOT_TRAIN_SPLIT = flags.DEFINE_string(
    "few_shot_train_split", "train", "Split that the probe's training images are drawn from."
)
_EXPECT = flags.DEFINE_float(
    "expect", None, "Expected top-1 in [0, 1]; exit with 1 if the result differs.", 0.0, 1.0
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.003, "Largest accepted difference from --expect.", 0.0
)
_CONFUSION = command.path_flag(
    "confusion",
    None,
    "File to write: which classes are taken for which, as a picture .png with the most confident "
    "mistakes, or as a table .csv.",
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object per line instead of text.")


def main() -> None:
    end_if_idle()
    shots = command.positive_integers(_FEW_SHOT) if _FEW_SHOT.present else []
    num_results = max(1, len(_CROP.value)) * max(1, len(shots))
    if _EXPECT.value is not None and num_results != 1:
        raise ValueError(f"Expected one result to compare with --expect; got {num_results}.")
    confusion = _new_confusion(shots, num_results)
    for result in _evaluate(shots, confusion):
        _print(result)
        if confusion is not None:
            _write(confusion, result)
        _check(result["top1"])


def _new_confusion(shots: list[int], num_results: int) -> Any:
    """Returns what counts the confusions, None if no file of them is asked for."""
    if _CONFUSION.value is None:
        return None
    if shots or num_results != 1:
        raise ValueError(
            f"Expected one result of the head for --confusion; got {num_results} with "
            f"--crop={','.join(_CROP.value)} --few_shot={','.join(_FEW_SHOT.value)}."
        )
    target = pathlib.Path(_CONFUSION.value).resolve()
    is_file_or_new = target.is_file() or not target.exists()
    if target.suffix not in (".png", ".csv") or not target.parent.is_dir() or not is_file_or_new:
        raise ValueError(
            f"Expected --confusion=NAME.png or .csv in an existing folder; got {_CONFUSION.value}."
        )
    if _CLASS_NAMES.value is not None and target == pathlib.Path(_CLASS_NAMES.value).resolve():
        raise ValueError(f"Expected --confusion to differ from --class_names; got {target}.")
    from mixer.evaluation.confusion import Confusion

    return Confusion()


def _write(confusion: Any, result: dict[str, Any]) -> None:
    from mixer.evaluation.confusion_picture import draw_confusion
    from mixer.evaluation.prediction_table import replace_file

    output = pathlib.Path(_CONFUSION.value)
    if output.suffix == ".png":
        replace_file(output, draw_confusion(confusion, _described(result)))
    else:
        replace_file(output, confusion.as_csv().encode())
    # Not among what another program reads.
    print(f"Confusions: {output}", file=sys.stderr if _JSON.value else sys.stdout, flush=True)


def _evaluate(shots: list[int], confusion: Any) -> Iterator[dict[str, Any]]:
    # After flag parsing, since JAX takes seconds.
    import jax.numpy as jnp

    from mixer.evaluation.class_names import find_class_names
    from mixer.evaluation.evaluate_weights import evaluate_few_shot, evaluate_head, images_for
    from mixer.weights.load import load_model

    loaded = load_model(
        _WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value, dtype=_DTYPE.value
    )
    if loaded.assumed:
        print(loaded.assumed, file=sys.stderr, flush=True)
    if _CLASS_NAMES.value is not None:
        names = tuple(find_class_names(loaded, _CLASS_NAMES.value))
        loaded = dataclasses.replace(loaded, class_names=names)
    images = images_for(
        loaded,
        dataset=_DATASET.value,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        label_key=_LABEL_KEY.value,
        crops=_CROP.value if _CROP.present else None,
        resize=_EVAL_RESIZE.value,
        batch_size=_BATCH_SIZE.value,
    )
    if shots:
        train_split = _FEW_SHOT_TRAIN_SPLIT.value
        results = evaluate_few_shot(loaded, images, train_split=train_split, shots=shots)
    else:
        results = evaluate_head(loaded, images, confusion)
    dtype = jnp.dtype(loaded.model.dtype).name
    return ({"weights": _WEIGHTS.value, "dtype": dtype, **result} for result in results)


def _print(result: dict[str, Any]) -> None:
    print(json.dumps(result) if _JSON.value else _described(result), flush=True)


def _described(result: dict[str, Any]) -> str:
    where = f"{result['dataset']}, {result['split']}"
    view = f"{where}, {result['crop']}, {result['image_size']} of {result['resize']} pixels:"
    top1, count = f"top-1 {result['top1']:.2%}", f"{result['count']:,} images"
    if "shots" in result:
        draws = f"mean of {result['seeds']} draws"
        return f"{view} {result['shots']}-shot {top1} of {count}, {draws}"
    top5 = f", top-5 {result['top5']:.2%}" if "top5" in result else ""
    return f"{view} {top1}, {result['correct']:,} of {count}{top5}"


def _check(top1: float) -> None:
    # The margin absorbs rounding: in floating point, 0.769 - 0.766 > 0.003.
    if _EXPECT.value is not None and abs(top1 - _EXPECT.value) > _TOLERANCE.value + 1e-9:
        raise ValueError(
            f"Expected a top-1 of {_EXPECT.value:.4f} within {_TOLERANCE.value}; got {top1:.4f}."
        )


if __name__ == "__main__":
    command.run(main)
