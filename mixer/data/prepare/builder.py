"""The TFDS builder of a dataset of images: features, keys, examples and the report."""

import contextlib
import io
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter

from mixer.data.prepare.images import checked_images, tar_problem
from mixer.data.prepare.progress import Progress
from mixer.data.prepare.report import IngestReport
from mixer.data.prepare.sources import ClassFiles

VERSION = "1.0.0"
_MOST_UNREADABLE = 10  # reported at once; a broken source is not read to its end


class ImagesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Makes examples of the images and keeps the report; TFDS sorts and writes them."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        name: str,
        *,
        data_dir: pathlib.Path,
        classes: list[ClassFiles],
        report: IngestReport,
        progress: Progress,
        num_shards: int | None,
        check: str,
        fail: bool,
    ):
        self.name = name
        self._classes = classes
        self._report = report
        self._progress = progress
        self._num_shards = num_shards
        self._check = check
        self._fail = fail
        super().__init__(data_dir=data_dir, file_format="array_record")

    def write(self) -> None:
        """Writes the dataset, and the report beside it.

        Raises:
          ValueError: an image is unreadable and not to be skipped, a member of a tar file points
            outside of it, or a split has fewer images than shards.
        """
        self._check_tars()
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # it speaks of a download; there is none
            self.download_and_prepare(
                download_config=tfds.download.DownloadConfig(num_shards=self._num_shards)
            )

    def _check_tars(self) -> None:
        """Finds tar files that were cut short, before hours are spent on the others."""
        for files in self._classes:
            if not files.path.is_dir() and (problem := tar_problem(files.path)):
                self._report.unreadable[str(files.path)] = problem
        self._fail_if(len(self._report.unreadable) > 0)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"The images of {self._report.source}, bytes unchanged.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),  # JPEG or PNG, as the files are
                    "label": tfds.features.ClassLabel(names=self._report.class_names),
                    "file_name": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
        del dl_manager  # nothing to download
        return {split: self._examples(split) for split in self._report.images}

    def _generate_examples(self) -> None:
        raise AssertionError("The splits bring their own generators.")

    def _examples(self, split: str) -> Iterator[tuple[str, dict[str, object]]]:
        """Yields the key and the example of each readable image of a split."""
        classes = [files for files in self._classes if files.split == split]
        counts, unreadable = self._report.images[split], self._report.unreadable
        self._progress.start(f"{split}: reading", sum(files.num_bytes for files in classes))
        for image, content, problem in checked_images(classes, self._check, self._report.ignored):
            if problem:
                unreadable.setdefault(image.where, problem)
                self._fail_if(len(unreadable) >= _MOST_UNREADABLE)
            else:
                counts[image.class_name] += 1
                yield (
                    f"{split}/{image.class_name}/{image.name}",
                    {"image": content, "label": image.class_name, "file_name": image.name},
                )
            self._progress.advance(len(content))
        self._fail_if(len(unreadable) > 0)
        count, least = self._report.splits[split], self._num_shards or 1
        if count < least:
            raise ValueError(
                f"Expected at least {least} readable images, one for each shard, "
                f"in the split {split!r} of {self._report.source}; found {count}."
            )
        self._progress.start(f"{split}: sorting and writing", count)
        if split == self._classes[-1].split:
            # Into the folder that is renamed when it is complete: no dataset is without its report.
            text = json.dumps(vars(self._report), indent=2)
            (self.data_path / "ingest_report.json").write_text(text + "\n")

    def _fail_if(self, condition: bool) -> None:
        if condition and self._fail:
            found = [f"{path} {problem}" for path, problem in self._report.unreadable.items()]
            raise ValueError(
                "Expected every image to be readable; found so far:\n  "
                + "\n  ".join(found[:_MOST_UNREADABLE])
                + "\nRepair or remove them, or leave them out with --unreadable=skip."
            )

    def _example_writer(self) -> ExampleWriter:
        return _CountingWriter(self._progress, file_format=self.info.file_format)


class _CountingWriter(ExampleWriter):
    def __init__(self, progress: Progress, **kwargs: Any):
        super().__init__(**kwargs)
        self._progress = progress

    def write(self, path: str, examples: Iterable[Any]) -> Any:
        return super().write(path, self._progress.count(examples))
