"""A dataset made of images on disk: what is asked for, checked and run."""

import collections
import contextlib
import pathlib
import re
from collections.abc import Sequence

from mixer.data.prepare import destination
from mixer.data.prepare.builder import VERSION, ImagesBuilder
from mixer.data.prepare.progress import Progress
from mixer.data.prepare.report import IngestReport
from mixer.data.prepare.sources import find_classes, label_names


def ingest_images(
    source: str,
    name: str,
    *,
    data_dir: str = "",
    class_names: Sequence[str] | None = None,
    num_shards: int | None = None,
    unreadable: str = "fail",
    check: str = "decode",
) -> IngestReport:
    """Writes DATA_DIR/`name`/1.0.0 from images on disk; their bytes are not changed.

    The features are `image`, `label` and `file_name`; `ingest_report.json` beside them holds the
    report. Up to 1 GB is held in memory, more is sorted on disk.

    Args:
      source: a folder with, for each class, a folder of JPEG and PNG files or a tar file of them
        (read without unpacking); or with such a folder for each split, one of them named train,
        test, validation or val. Without splits, all is `train`.
      name: of the dataset to write, as `config.dataset` will name it.
      data_dir: where TFDS keeps its datasets; "" for its default.
      class_names: the classes in the order of their labels; None for those found, sorted.
      num_shards: files per split; None for files of 64 MiB to 1 GiB.
      unreadable: "fail" if an image is unreadable, or "skip" it.
      check: "decode" reads all of every image, "header" only its header and its end mark.

    Raises:
      ValueError: an argument is not as above, the dataset exists, `source` has another layout, a
        class that is not in `class_names` or a split without images, an image is unreadable, a
        member of a tar file points outside of it, or the disk is too small.
    """
    _check_options(name, num_shards, unreadable, check)
    root = destination.local_folder(data_dir)
    with destination.write_alone(root / name), contextlib.closing(Progress()) as progress:
        destination.refuse_existing(root / name)
        ignored: collections.Counter[str] = collections.Counter()
        classes = find_classes(pathlib.Path(source).expanduser(), ignored)
        names = label_names(name, class_names, classes)
        destination.check_disk(root, sum(files.num_bytes for files in classes))
        report = IngestReport(
            source=str(source),
            path=str(root / name / VERSION),
            images={files.split: dict.fromkeys(names, 0) for files in classes},
            ignored=ignored,
        )
        builder = ImagesBuilder(
            name,
            data_dir=root,
            classes=classes,
            report=report,
            progress=progress,
            num_shards=num_shards,
            check=check,
            fail=unreadable == "fail",
        )
        destination.allow_open_files()
        builder.write()
    return report


def _check_options(name: str, num_shards: int | None, unreadable: str, check: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            "Expected a dataset name of lower-case letters, digits and underscores that begins "
            f"with a letter; got {name!r}."
        )
    for option, value, known in (
        ("unreadable", unreadable, ("fail", "skip")),
        ("check", check, ("decode", "header")),
    ):
        if value not in known:
            raise ValueError(f"Expected {option} to be {' or '.join(known)}; got {value!r}.")
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"Expected at least one shard; got num_shards={num_shards}.")
