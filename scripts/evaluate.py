"""Evaluates weights: python scripts/evaluate.py --weights=SOURCE [--dataset=NAME]

Example: python scripts/evaluate.py --weights=imagenet1k/Mixer-B_16 --dataset=imagenet2012

SOURCE is a name of the catalogue of published weights, a .npz or .safetensors file, the workdir of
a run, or one of its checkpoints. NAME is as in a config; imagenet2012_real counts a prediction as
right if it is one of the reassessed labels of the image. --few_shot evaluates the features alone,
with a linear probe of them, and so works for datasets that the weights were not trained on.
The weights of a run are evaluated as the run was: its dataset and crop need no flags.
"""

import json
import os
from typing import Any

from absl import app, flags, logging

# Before TensorFlow is loaded: only its errors, and not all of Keras (see mixer/main.py).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_WEIGHTS = flags.DEFINE_string("weights", None, "The weights, see above.", required=True)
_DATASET = flags.DEFINE_string("dataset", None, "The dataset, see above; else that of the run.")
_SPLIT = flags.DEFINE_string(
    "split", None, "Its images to evaluate on; else the run's eval_splits.test, or validation."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps its datasets; else as for the run."
)
_CROP = flags.DEFINE_list(
    "crop",
    [],
    "resmall_crop, resize_crop (Appendix C), or both: a result for each. Else that of the run, or "
    "resmall_crop.",
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
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images per batch, on all devices together.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
_GELU = flags.DEFINE_enum("gelu", None, ["tanh", "exact"], "Else what the weights need.")
_FEW_SHOT = flags.DEFINE_list(
    "few_shot", [], "Training images per class of a linear probe, for instance 1,5,10,25."
)
_FEW_SHOT_TRAIN_SPLIT = flags.DEFINE_string(
    "few_shot_train_split", "train", "Where the probe's training images come from."
)
_EXPECT = flags.DEFINE_float(
    "expect", None, "Exit with 1 unless the top-1 is this.", lower_bound=0.0, upper_bound=1.0
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 0.003, "How far from --expect it may be.", lower_bound=0.0
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object a line instead of text.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.ERROR)
    try:
        shots = _parse_shots(_FEW_SHOT.value)
        num_results = max(1, len(_CROP.value)) * max(1, len(shots))
        if _EXPECT.value is not None and num_results != 1:
            raise ValueError(f"Expected one result to compare with --expect; got {num_results}.")
        for result in _evaluate(shots):
            _print(result)
            _check(result["top1"])
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def _parse_shots(numbers: list[str]) -> list[int]:
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"Expected --few_shot as 1,5,10,25; got {','.join(numbers)}.")
    return [int(number) for number in numbers]


def _evaluate(shots: list[int]) -> Any:
    # After the flags: JAX takes seconds.
    from mixer.evaluation.evaluate_weights import evaluate_few_shot, evaluate_head, images_for
    from mixer.weights.load import load_model

    loaded = load_model(
        _WEIGHTS.value, image_size=_IMAGE_SIZE.value, gelu=_GELU.value, dtype=_DTYPE.value
    )
    images = images_for(
        loaded,
        dataset=_DATASET.value,
        split=_SPLIT.value,
        data_dir=_DATA_DIR.value,
        crops=_CROP.value,
        resize=_EVAL_RESIZE.value,
        batch_size=_BATCH_SIZE.value,
    )
    if shots:
        train_split = _FEW_SHOT_TRAIN_SPLIT.value
        return evaluate_few_shot(loaded, images, train_split=train_split, shots=shots)
    return evaluate_head(loaded, images)


def _print(result: dict[str, Any]) -> None:
    if _JSON.value:
        what = {"weights": _WEIGHTS.value, "dtype": _DTYPE.value}
        print(json.dumps({**what, **result}), flush=True)
        return
    view = f"{result['crop']}, {result['image_size']} of {result['resize']} pixels:"
    top1, count = f"top-1 {result['top1']:.2%}", f"{result['count']:,} images"
    if "shots" in result:
        draws = f"mean of {result['seeds']} draws"
        print(f"{view} {result['shots']}-shot {top1} of {count}, {draws}", flush=True)
    else:
        print(f"{view} {top1}, {result['correct']:,} of {count}", flush=True)


def _check(top1: float) -> None:
    # The margin is for the rounding of decimal fractions: 0.769 - 0.766 > 0.003.
    if _EXPECT.value is not None and abs(top1 - _EXPECT.value) > _TOLERANCE.value + 1e-9:
        raise ValueError(
            f"Expected a top-1 of {_EXPECT.value:.4f}, give or take {_TOLERANCE.value}; got "
            f"{top1:.4f}."
        )


if __name__ == "__main__":
    app.run(main)
