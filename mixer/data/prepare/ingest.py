"""Makes a dataset of images on disk: checks the request, locks the destination, writes."""

import collections
import contextlib
import pathlib
import re
import resource
import shutil
import unicodedata
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds

from mixer.data.file_names import is_line, shown
from mixer.data.folder import ClassFiles, read_image_folder
from mixer.data.image_check import MAX_BYTES
from mixer.data.prepare.builder import VERSION, ImagesBuilder, Progress
from mixer.data.prepare.report import IngestReport
from mixer.data.table import DATASETS
from mixer.errors import suggestion
from mixer.runtime.file_lock import file_lock

_TAKEN = {"folder": "a folder of images (folder:PATH)", "digits": "the digits in this code"} | {
    name: "a dataset that only TFDS writes"  # elsewhere, or with other features
    for name, row in DATASETS.items()
    if (row.tfds_name, row.label_key) != (name, "label")
}


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
    """Writes images on disk to DATA_DIR/`name`/1.0.0, bytes unchanged, and returns the report.

    The features are `image`, `label` and `file_name`. The report is also saved with the dataset, in
    `ingest_report.json`. Up to 1 GB is sorted in memory, more on disk.

    Args:
      source: a folder as `mixer/data/folder.py` describes it. Tar files are read without unpacking.
        Without splits, about a tenth of the images of each class folder is in `test`; of tar files
        and of a dataset in the table, all are in `train`.
      name: the name of the new dataset, to be used as `config.dataset`.
      data_dir: TFDS's data folder; "" for TFDS's default.
      class_names: the classes in the order of their labels; None for the classes found, sorted.
      num_shards: files per split; None for files of 64 MiB to 1 GiB.
      unreadable: "fail" to raise an error for unreadable images, "skip" to leave them out.
      check: "decode" to read each image in full, "header" to read only its header and end marker.

    Raises:
      ValueError: an argument is invalid, the dataset exists or is being written by another process,
        the layout of `source` is not as above, a class is missing from `class_names`, a split has
        no images, an image is unreadable, a tar member points outside the archive, or the disk is
        too small.
    """
    _check_options(name, num_shards, unreadable, check)
    root = _local_folder(data_dir)
    with _locked(root / name), Progress() as progress:
        folder = read_image_folder(pathlib.Path(source).expanduser(), hold_out=name not in DATASETS)
        classes = folder.classes
        found = folder.class_names() if class_names is None else class_names
        names = _label_names(name, found, classes)
        sizes = [size for files in classes for size in files.sizes]
        _check_disk(root, sum(size for size in sizes if size <= MAX_BYTES))  # others are not copied
        _allow_open_files()
        report = IngestReport(
            source=str(source),
            path=str(root / name / VERSION),
            images={files.split: dict.fromkeys(names, 0) for files in classes},
            ignored=folder.unused,
            note=folder.note,
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
        builder.write()
    return report


def _check_options(name: str, num_shards: int | None, unreadable: str, check: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            "Expected a dataset name of lower-case letters, digits and underscores that begins "
            f"with a letter; got {name!r}."
        )
    if name in _TAKEN:
        raise ValueError(
            f"Expected a name that opens the new dataset; got {name!r}, which stands for "
            f"{_TAKEN[name]}. Choose another name."
        )
    for option, value, known in (
        ("unreadable", unreadable, ("fail", "skip")),
        ("check", check, ("decode", "header")),
    ):
        if value not in known:
            raise ValueError(f"Expected {option} to be {' or '.join(known)}; got {value!r}.")
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"Expected at least one shard; got num_shards={num_shards}.")


def _local_folder(data_dir: str) -> pathlib.Path:
    if "://" in data_dir:
        raise ValueError(
            f"Expected a local data_dir, since ArrayRecord files are written to disk; got "
            f"{data_dir}. Write the dataset to disk and copy the folder afterwards."
        )
    folder = data_dir or tfds.core.constants.get_default_data_dir()
    return pathlib.Path(folder).expanduser().absolute()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks `folder` and removes what a killed process left there.

    Raises:
      ValueError: another process is writing there, or a dataset exists.
    """

    def refuse() -> None:
        raise ValueError(
            f"Expected to write {folder} alone; another process does so now. Wait until it ends."
        ) from None

    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder, refuse):
        for leftover in folder.glob("incomplete.*"):
            if _is_unfinished(leftover):
                shutil.rmtree(leftover)
        if found := list(folder.iterdir()):
            raise ValueError(
                f"Expected no dataset in {folder}; found {found[0]}. A dataset is never "
                "overwritten: choose another name, or delete that folder first."
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # succeeds if nothing was written


def _is_unfinished(folder: pathlib.Path) -> bool:
    """Whether it is a temporary folder of TFDS with files that it writes, and no others."""
    written = (
        r"[a-z]\w*-\w+\.(array_record|tfrecord)\S*|\S*\.tmp\S*|incomplete\.\w+\.\S+"
        r"|(features|dataset_info|ingest_report)\.json|label\.labels\.txt"
    )
    is_named = re.fullmatch(rf"incomplete\.[A-Z0-9]{{6}}_{VERSION}", folder.name)
    return bool(is_named) and all(
        path.is_file() and re.fullmatch(written, path.name) for path in folder.iterdir()
    )


def _label_names(dataset: str, class_names: Sequence[str], classes: list[ClassFiles]) -> list[str]:
    """Returns the classes in the order of their labels.

    Raises:
      ValueError: a name is repeated or is not a line of text, a class of the source is missing, or
        the dataset is known to have another number of classes.
    """
    found = {files.class_name: files.path for files in classes}
    names = [unicodedata.normalize("NFC", name) for name in class_names]
    if repeated := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(
            f"Expected every class once in the list; got twice: {', '.join(repeated[:5])}."
        )
    for name in names:
        if not is_line(name):
            raise ValueError(
                f"Expected class names to be a line of UTF-8 text; got {shown(name)!r}."
            )
    known = set(names)
    if unknown := [name for name in sorted(found) if name not in known]:
        raise ValueError(
            f"Expected only classes from the list of {len(names):,}; got {len(unknown):,} not in "
            f"it, such as {unknown[0]!r} in {found[unknown[0]]}."
            f"{suggestion(unknown[0], names)}"
        )
    row = DATASETS.get(dataset)
    if row is not None and row.num_classes != len(names):
        raise ValueError(
            f"Expected {row.num_classes:,} classes for {dataset}; got {len(names):,}. Give the "
            "full list of its classes, or choose another name."
        )
    return names


def _check_disk(root: pathlib.Path, num_bytes: int) -> None:
    # While sorting, TFDS deletes each temporary file once it is written, so one copy is enough.
    needed, free = int(1.05 * num_bytes), shutil.disk_usage(root).free
    if free < needed:
        raise ValueError(
            f"Expected {needed / 2**30:,.1f} GiB free in {root}; got {free / 2**30:,.1f} GiB. "
            "Free some space, or choose another data_dir."
        )


def _allow_open_files() -> None:
    """Raises the soft limit: TFDS sorts large datasets through a thousand files open at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
