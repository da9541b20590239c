"""The report on a dataset made of images, and the flags to train on it."""

import collections
import dataclasses
from collections.abc import Collection

from mixer.data.file_names import some
from mixer.data.splits import SPLITS


@dataclasses.dataclass(frozen=True)
class IngestReport:
    """What a dataset contains, and what was left out of it."""

    source: str
    path: str
    images: dict[str, dict[str, int]]  # split -> class, in the order of the labels -> images
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)  # file -> reason
    # Suffix of files that are no images, or what else was not used -> how many.
    ignored: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    note: str = ""  # how the images were split, if not by folders

    @property
    def splits(self) -> dict[str, int]:
        """The number of images in each split."""
        return {split: sum(counts.values()) for split, counts in self.images.items()}

    @property
    def class_names(self) -> list[str]:
        """The classes in the order of their labels."""
        return list(next(iter(self.images.values())))

    @property
    def empty_classes(self) -> list[str]:
        """The classes that have no image in any split."""
        counts = self.images.values()
        return [name for name in self.class_names if not any(split[name] for split in counts)]

    def summary(self) -> str:
        """Returns the report as lines of text: counts per split, classes, files left out."""
        lines = [f"Wrote {sum(self.splits.values()):,} images to {self.path}"]
        lines += [f"  {split:<12} {self._split_line(split)}" for split in self.images]
        lines += [f"  {'classes':<12} {len(self.class_names):,}"]
        if empty := self.empty_classes:
            lines += [f"  {'no image':<12} {len(empty):,} classes: {some(empty)}"]
        for split, counts in self.images.items():
            if lacking := [n for n in counts if not counts[n] and n not in self.empty_classes]:
                lines += [f"  {'no image':<12} in {split} of {some(lacking)}"]
        if self.unreadable:
            lines += [f"  {'left out':<12} {len(self.unreadable):,} unreadable files"]
        if self.ignored:
            kinds = [f"{n:,} {kind or 'no suffix'}" for kind, n in sorted(self.ignored.items())]
            lines += [f"  {'ignored':<12} {'; '.join(kinds)}"]
        if self.note:
            lines += [f"  {'split':<12} {self.note}"]
        return "\n".join([*lines, f"  {'report':<12} {self.path}/ingest_report.json"])

    def _split_line(self, split: str) -> str:
        counts = {name: count for name, count in self.images[split].items() if count}
        smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        line = f"{self.splits[split]:,} images"
        if counts[smallest] == counts[largest]:
            return f"{line}, {counts[largest]:,} in each class"
        sizes = f"{smallest} ({counts[smallest]:,}), largest {largest} ({counts[largest]:,})"
        return f"{line}; smallest class {sizes}"


def training_flags(name: str, data_dir: str, splits: Collection[str]) -> str:
    """Returns the flags with which `mixer.main` trains on a dataset.

    Evaluates on the test or validation split, or, with only a train split, on its last 5%.

    Args:
      name: the name of the dataset.
      data_dir: TFDS's data folder; "" for TFDS's default.
      splits: the names of the splits that exist.
    """
    flags = {"dataset": name}
    if data_dir:
        flags["data_dir"] = data_dir
    tests = [split for split in splits if split.lower() in SPLITS[1:]]
    if "train" in splits and tests:
        flags |= {"train_split": "train", "eval_splits.test": tests[0]}
    elif "train" in splits:
        flags |= {"train_split": "'train[:95%]'", "eval_splits.test": "'train[95%:]'"}
    elif tests:
        flags |= {"eval_splits.test": tests[0]}
    return " ".join(f"--config.{key}={value}" for key, value in flags.items())
