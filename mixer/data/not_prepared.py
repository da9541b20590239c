"""What to do about a dataset that is not on disk."""

import json
import shlex

from mixer.data.row import DatasetRow
from mixer.data.table import DATASETS
from mixer.errors import suggestion


def not_prepared(
    name: str,
    row: DatasetRow | None,
    version: str,
    root: str,
    versions: list[str],
    data_dir: str,
) -> ValueError:
    """Returns the error to raise: what was expected, what is there, and how to get it.

    Args:
      name: of the dataset, as in a config.
      row: of the table, if it has the dataset.
      version: the one that is needed; "": any.
      root: the folder that holds the versions of the dataset.
      versions: those that are there.
      data_dir: TFDS's data folder.
    """
    is_pinned = row is not None and version == row.version != ""
    if versions and not is_pinned:
        return ValueError(f"Expected {name} in {root}; found only {', '.join(versions)}.")
    if row is None:
        return ValueError(
            f"Unknown dataset {name!r}, and no such dataset in {root}. Expected folder:PATH "
            f"or one of: {', '.join(DATASETS)}.{suggestion(name, DATASETS)}"
        )
    tfds_name = f"{row.tfds_name}:{version}" if version else row.tfds_name
    how = row.how_to_get or f"prepare it with:\n  {_tfds_command(tfds_name, data_dir)}"
    if row.manual_files:
        how = f"put {row.manual_files} into {data_dir}/downloads/manual, then {how}"
    what = f"the dataset {name!r}" + f", {tfds_name}," * is_pinned
    there = f"found only {', '.join(versions)}" if versions else "it is not there"
    return ValueError(
        f"Expected {what} in {root}; {there}. If it is in another folder, "
        f"set data_dir to that folder. Otherwise, {how}"
    )


def _tfds_command(tfds_name: str, data_dir: str) -> str:
    """Returns the shell command with which TFDS downloads a dataset and writes it to `data_dir`."""
    # `tfds build` does not start without Apache Beam and mlcroissant, which TFDS does not install
    # (https://github.com/tensorflow/datasets/issues/5463).
    file_format = "tfrecord" if "://" in data_dir else "array_record"
    builder = f"{json.dumps(tfds_name)}, data_dir={json.dumps(data_dir)}"
    builder = f'tfds.builder({builder}, file_format="{file_format}")'
    program = f"import tensorflow_datasets as tfds; {builder}.download_and_prepare()"
    return shlex.join(["python", "-c", program])
