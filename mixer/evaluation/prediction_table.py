"""Predictions as text, CSV or JSON: safe to print, to open in a spreadsheet and to read back."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Sequence

from mixer.evaluation.prediction import Prediction, accuracy_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute such a cell


def as_text(predictions: Sequence[Prediction]) -> str:
    """Returns lines for people: each file, its true class if known, its classes in percent."""
    lines = []
    for prediction in predictions:
        true = prediction.true_class
        lines.append(printable(str(prediction.path) + ("" if true is None else f", true: {true}")))
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            lines.append(f"  {probability:7.2%}  {printable(name)}")
    if accuracy := accuracy_of(predictions):
        lines.append(f"{accuracy} whose folder is named after a class")
    return "".join(f"{line}\n" for line in lines)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Returns a table: image, true_class (may be empty), class_1, probability_1, class_2, ...

    Text that a spreadsheet would take for a formula begins with an apostrophe. Bytes of a file name
    that are not UTF-8 are written as \\udcXX.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = range(1, len(predictions[0].classes) + 1)
    pairs = [name for rank in shown for name in (f"class_{rank}", f"probability_{rank}")]
    writer.writerow(["image", "true_class", *pairs])
    for prediction in predictions:
        row: list[object] = [cell(str(prediction.path)), cell(prediction.true_class or "")]
        for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
            row += [cell(name), f"{probability:.6g}"]
        writer.writerow(row)
    return text.getvalue()


def as_json(predictions: Sequence[Prediction]) -> str:
    """Returns an array with one object per line, in ASCII.

    `os.fsencode` of an `image` gives the bytes of the file's name.
    """
    lines = [
        json.dumps(
            {
                "image": str(prediction.path),
                "true_class": prediction.true_class,
                "classes": prediction.classes,
                "probabilities": prediction.probabilities,
            }
        )
        for prediction in predictions
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


FORMATS = {"text": as_text, "csv": as_csv, "json": as_json}


def printable(text: str) -> str:
    """Returns the text with line ends, control characters and undecodable bytes as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def replace_file(output: pathlib.Path, content: bytes) -> None:
    """Writes a file; an existing one is replaced only once the new one is complete.

    Of a link, the file that it leads to is written.
    """
    output = output.resolve()
    unfinished = output.with_name(f".{output.name}.unfinished-{os.getpid()}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def cell(text: str) -> str:
    """Returns the text as UTF-8 that no spreadsheet takes for a formula."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"'{text}" if text.startswith(_FORMULA) else text
