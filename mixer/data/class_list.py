"""Reads a list of class names, for preparation, evaluation and prediction alike."""

import pathlib


def read_class_list(path: str) -> list[str]:
    """Returns the lines of a UTF-8 file that are not empty, stripped: one class name per line.

    Raises:
      ValueError: the file is not UTF-8 text.
      OSError: the file cannot be read.
    """
    try:  # with or without a byte-order mark
        text = pathlib.Path(path).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {path} to be UTF-8 text; got {error}. Save it as UTF-8, as with: "
            f"iconv -f latin1 -t utf-8 {path}"
        ) from error
    return [line.strip() for line in text.split("\n") if line.strip()]
