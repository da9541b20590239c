"""Datasets that TFDS itself downloads and writes."""

import dataclasses
import pathlib

import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager, downloader, util

import mixer.data.digits  # noqa: F401  (TFDS knows the digits once this is imported)
from mixer.data.prepare.destination import allow_open_files, local_folder, write_alone
from mixer.data.table import DatasetRow

# TFDS tries 10 times to reach a server, which is 204 s of silence without a network; 6 are 12 s.
_RETRIES = 6


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A dataset of TFDS on disk; `splits` holds the number of examples of each."""

    path: str
    splits: dict[str, int]
    num_classes: int
    was_there: bool

    def summary(self) -> str:
        """Returns the lines to show at the end."""
        lines = [f"{'Already prepared' if self.was_there else 'Prepared'}: {self.path}"]
        lines += [f"  {split:<12} {count:,} examples" for split, count in self.splits.items()]
        return "\n".join([*lines, f"  {'classes':<12} {self.num_classes:,}"])


def prepare_tfds(
    row: DatasetRow, *, data_dir: str = "", num_shards: int | None = None
) -> PreparedDataset:
    """Downloads a dataset of TFDS and writes it as ArrayRecord files, unless it lies there already.

    Args:
      row: which dataset.
      data_dir: where TFDS keeps its datasets; "" for its default.
      num_shards: files per split; None for files of 64 MiB to 1 GiB.

    Raises:
      ValueError: a download failed, what must be downloaded by hand is missing, or TFDS does not
        know the dataset.
    """
    root = local_folder(data_dir)
    try:
        builder = tfds.builder(row.tfds_name, data_dir=root)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS cannot prepare {row.tfds_name}. {row.how_to_get}") from error
    was_there = builder.is_prepared()
    if not was_there:
        with write_alone(pathlib.Path(builder.data_dir).parent):
            _download_and_prepare(builder, row, root, num_shards)
    return PreparedDataset(
        path=str(builder.data_dir),
        splits={name: split.num_examples for name, split in builder.info.splits.items()},
        num_classes=row.num_classes,
        was_there=was_there,
    )


def _download_and_prepare(
    builder: tfds.core.DatasetBuilder, row: DatasetRow, root: pathlib.Path, num_shards: int | None
) -> None:
    allow_open_files()
    downloader.MAX_RETRIES = _RETRIES
    by_hand = root / "downloads" / "manual"
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(num_shards=num_shards),
        )
    except (AssertionError, FileNotFoundError, tf.errors.NotFoundError) as error:
        if not row.how_to_get:
            raise
        raise ValueError(
            f"Expected the files of {row.tfds_name} that must be downloaded by hand in "
            f"{by_hand}. {row.how_to_get}\nTFDS says: {error}"
        ) from error
    except (
        requests.RequestException,
        util.DownloadError,
        download_manager.NonMatchingChecksumError,
    ) as error:
        files = [(info.filename, url) for url, info in (builder.url_infos or {}).items()]
        raise ValueError(
            f"Expected to download the files of {row.tfds_name}; got: {error}\n"
            "With a network, run the same command again. Without one, download what is missing "
            f"elsewhere and put it into {by_hand} as\n"
            + "\n".join(f"  {name} from {url}" for name, url in files if name)
        ) from error
