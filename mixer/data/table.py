"""The table of datasets: what is known about each without its data and without TensorFlow."""

import re
from collections.abc import Mapping

from mixer.data.order import subset_size
from mixer.data.overlap import Piece, check_distinct
from mixer.data.row import DatasetRow
from mixer.data.vtab import VTAB_ROWS
from mixer.errors import unknown_name

_TRAIN_TAR, _VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"

DATASETS: dict[str, DatasetRow] = {
    "imagenet2012": DatasetRow(
        "imagenet2012",
        1000,
        {"train": 1_281_167, "validation": 50_000},
        manual_files=f"{_TRAIN_TAR} and {_VAL_TAR} from https://image-net.org",
    ),
    # "Reassessed labels" of the validation images: a set of up to nine labels for each. For 3,163
    # of the 50,000 images the set is empty.
    "imagenet2012_real": DatasetRow(
        "imagenet2012_real",
        1000,
        {"validation": 50_000},
        label_key="real_label",
        max_labels=9,
        manual_files=f"{_VAL_TAR} from https://image-net.org",
    ),
    "imagenet_v2": DatasetRow("imagenet_v2/matched-frequency", 1000, {"test": 10_000}),
    # The size of the public release of fall 2011; the paper says "14M". A copy without its
    # unreadable images is smaller.
    "imagenet21k": DatasetRow(
        "imagenet21k",
        21_843,
        {"train": 14_197_122},
        how_to_get="make it from the tar files or folders of its synsets, with FILE listing one "
        "synset per line:\n  python scripts/prepare_dataset.py --images=DIR --name=imagenet21k "
        "--classes=FILE",
    ),
    # Published descriptions give 18,291 classes; the paper says "18k", and "300M" images.
    "jft300m": DatasetRow(
        "jft300m",
        18_291,
        {"train": 300_000_000},
        how_to_get="if you have access to this private dataset, store it there in TFDS's format "
        "with the features image and label (a class, or a set of which max_labels are read).",
    ),
    "cifar10": DatasetRow("cifar10", 10, {"train": 50_000, "test": 10_000}),
    "cifar100": DatasetRow("cifar100", 100, {"train": 50_000, "test": 10_000}),
    "oxford_iiit_pet": DatasetRow("oxford_iiit_pet", 37, {"train": 3_680, "test": 3_669}),
    "oxford_flowers102": DatasetRow(
        "oxford_flowers102", 102, {"train": 1_020, "validation": 1_020, "test": 6_149}
    ),
    "digits": DatasetRow("digits", 10, {"train": 1_433, "test": 364}),
    **VTAB_ROWS,
}

_EDGE = r"-?\d+(?:(?:\.\d+)?%)?"
_SLICE = re.compile(rf"(?P<split>[\w-]+)(\[(?!:\])(?P<begin>{_EDGE})?:(?P<end>{_EDGE})?\])?")


def num_examples(name: str, split: str, fraction: float = 1.0) -> int:
    """Returns the number of examples in a split, without its data.

    Args:
      name: a key of `DATASETS`, with or without a version.
      split: a split as TFDS writes and rounds it: `train`, `train[:99%]`, `train[-1000:]`; a named
        split of the row, or a slice of one; or a sum of these.
      fraction: the fraction of the split, as in `open_dataset`.

    Raises:
      ValueError: the dataset, split or fraction is invalid, the split has an example twice, or no
        example is left.
    """
    pieces = find_pieces(name, split)
    total = sum(end - start for _, start, end in pieces)
    if total < 1:
        raise ValueError(f"Expected at least one example in {split!r} of {name}; got none.")
    check_distinct(pieces, split, name)
    return subset_size(total, fraction)


def find_pieces(name: str, split: str) -> list[Piece]:
    """Returns which examples a split consists of, without its data; see `num_examples`."""
    base = name.partition(":")[0]
    if base == "folder":
        raise ValueError(
            f"Expected a dataset of known size, one of: {', '.join(DATASETS)}; got {name!r}. Only "
            "the folder itself tells how many images it has."
        )
    if base not in DATASETS:
        raise unknown_name("dataset", base, DATASETS)
    splits = DATASETS[base].splits
    parts = tfds_split(base, split).split("+")
    return [_piece(base, part.strip(), splits) for part in parts]


def tfds_split(name: str, split: str) -> str:
    """Returns a split as TFDS writes it: with the slices that the row's named splits stand for.

    `name` is that of any dataset, with or without a version. `test[:100]` is the first hundred
    examples of the named split `test`, if there is one.

    Raises:
      ValueError: the slice of a named split is invalid, or that split is a sum.
    """
    base = name.partition(":")[0]
    row = DATASETS.get(base)
    return "+".join(
        _without_names(base, row, part.strip()) if row else part.strip()
        for part in split.split("+")
    )


def _without_names(name: str, row: DatasetRow, part: str) -> str:
    match = _SLICE.fullmatch(part)
    stands_for = row.named_splits.get(match["split"]) if match else None
    if match is None or stands_for is None:
        return part
    if match["split"] == part:
        return stands_for
    if "+" in stands_for:
        raise ValueError(
            f"Expected {match['split']!r} of {name} as a whole; got {part!r}. Name parts of "
            f"{stands_for}."
        )
    whole = _piece(name, stands_for, row.splits)
    inside = _piece(name, part, {match["split"]: whole.end - whole.start})
    return f"{whole.place}[{whole.start + inside.start}:{whole.start + inside.end}]"


def _piece(name: str, part: str, splits: Mapping[str, int]) -> Piece:
    match = _SLICE.fullmatch(part)
    if match is None:
        raise ValueError(
            f"Expected splits such as train, train[:99%] or train[1000:2000]; got {part!r}."
        )
    if match["split"] not in splits:
        raise unknown_name(f"split of {name}", match["split"], splits)
    size = splits[match["split"]]
    percent = "%" in part  # on one edge means on both, as in TFDS
    begin, end = (_position(edge, size, percent) for edge in match.group("begin", "end"))
    if max(abs(begin or 0), abs(end or 0)) > size:
        raise ValueError(f"Expected a slice of the {size:,} examples; got {part!r} of {name}.")
    positions = range(size)[begin:end]
    return Piece(match["split"], positions.start, max(positions.start, positions.stop))


def _position(edge: str | None, size: int, percent: bool) -> int | None:
    if edge is None:
        return None
    return round(float(edge.removesuffix("%")) * size / 100.0) if percent else int(edge)
