"""A row of the table of datasets."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class DatasetRow:
    """A dataset in TFDS's format, stored in DATA_DIR/`tfds_name`/VERSION."""

    tfds_name: str
    num_classes: int
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)  # number of examples
    image_key: str = "image"
    label_key: str = "label"
    max_labels: int = 1  # per image
    manual_files: str = ""  # the files that TFDS needs and cannot download
    how_to_get: str = ""  # for a dataset that TFDS does not have; follows "Otherwise, "
    version: str = ""  # the one that is read; "": the newest
    label_rule: str = ""  # of `LABEL_RULES`, in place of `label_key`
    pixel_factor: int = 1  # of the stored values
    # Names that stand for splits, and go before TFDS's own names.
    named_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
