"""The TFDS builder that writes images as a dataset, and the progress it shows."""

import contextlib
import datetime
import io
import json
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import rich.console
import rich.progress
import tensorflow_datasets as tfds
from tensorflow_datasets.core.writer import ExampleWriter

from mixer.data.folder import ClassFiles
from mixer.data.prepare.report import IngestReport
from mixer.data.prepare.sources import checked_images, tar_problem

VERSION = "1.0.0"
_MAX_UNREADABLE = 10  # a source with this many is broken, and not read to its end
_SECONDS_PER_LINE = 5.0


class Progress(rich.progress.Progress):
    """Shows one stage of work at a time: a bar on a terminal, elsewhere a line every 5 seconds."""

    def __init__(self) -> None:
        console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
        super().__init__(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._seconds_per_show = 0.1 if console.is_terminal else _SECONDS_PER_LINE

    def begin(self, stage: str, total: int) -> None:
        """Ends the previous stage and starts one of `total` units of work."""
        self._end()
        self._images, self._next_show = 0, time.monotonic() + self._seconds_per_show
        self.add_task(stage, total=max(total, 1), status="")

    def count(self, units: int) -> None:
        """Counts one image and the units of work it took."""
        (task,) = self.tasks
        self.advance(task.id, units)
        self._images += 1
        if time.monotonic() < self._next_show:
            return
        self._next_show = time.monotonic() + self._seconds_per_show
        done, seconds = task.percentage / 100, task.elapsed or 1e-9
        left = datetime.timedelta(seconds=round(seconds / done - seconds) if done else 0)
        rate = f"{self._images / seconds:,.0f} images/s"
        self.update(task.id, status=f"{self._images:,} images, {rate}, {left} left")
        if not self.console.is_terminal:
            self.console.print(f"{task.description}, {done:.0%}: {task.fields['status']}")

    def stop(self) -> None:
        """Ends the last stage and the display; leaving the context calls it."""
        self._end()
        super().stop()

    def _end(self) -> None:
        for task in self.tasks:
            self.remove_task(task.id)
            took = f"{self._images:,} images in {task.elapsed:,.1f} s"
            self.console.print(f"{task.description}: {took}")


class ImagesBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Turns images into examples and counts them in `report`; TFDS sorts and writes them.

    `classes` is grouped by split; `report` lists all splits and classes. `num_shards` and `check`
    are those of `ingest_images`; `fail` makes an unreadable image an error.
    """

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
        """Writes the dataset, with the report in its folder.

        Raises:
          ValueError: an image is unreadable and `fail` is set, a tar member points outside the
            archive, or a split has fewer images than shards.
        """
        # Finds truncated tar files now, before hours are spent on the others.
        for files in self._classes:
            if files.is_tar and (problem := tar_problem(files.path)):
                self._report.unreadable[str(files.path)] = problem
        self._fail_at(1)
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download; there is none
            self.download_and_prepare(
                download_config=tfds.download.DownloadConfig(num_shards=self._num_shards)
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"The images of {self._report.source}, bytes unchanged.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),  # encoded like the files
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
        raise AssertionError("_split_generators returns the generators.")

    def _examples(self, split: str) -> Iterator[tuple[str, dict[str, object]]]:
        """Yields the key and the example of each readable image of a split."""
        classes = [files for files in self._classes if files.split == split]
        counts, unreadable = self._report.images[split], self._report.unreadable
        self._progress.begin(f"{split}: reading", sum(sum(files.sizes) for files in classes))
        for image, content, problem in checked_images(classes, self._check, self._report.ignored):
            if problem:
                unreadable.setdefault(image.where, problem)
                self._fail_at(_MAX_UNREADABLE)
            else:
                counts[image.class_name] += 1
                yield (
                    f"{split}/{image.class_name}/{image.name}",
                    {"image": content, "label": image.class_name, "file_name": image.name},
                )
            self._progress.count(len(content))
        self._fail_at(1)
        count, least = self._report.splits[split], self._num_shards or 1
        if count < least:
            raise ValueError(
                f"Expected at least {least} readable images, one for each shard, "
                f"in the split {split!r} of {self._report.source}; found {count}."
            )
        self._progress.begin(f"{split}: sorting and writing", count)
        if split == self._classes[-1].split:
            # Into the temporary folder: the dataset and its report appear together.
            text = json.dumps(vars(self._report), indent=2)
            (self.data_path / "ingest_report.json").write_text(text + "\n")

    def _fail_at(self, count: int) -> None:
        unreadable = self._report.unreadable
        if self._fail and len(unreadable) >= count:
            found = [f"{path} {problem}" for path, problem in unreadable.items()]
            raise ValueError(
                "Expected every image to be readable; found so far:\n  "
                + "\n  ".join(found[:_MAX_UNREADABLE])
                + "\nRepair or remove them, or leave them out with --unreadable=skip."
            )

    def _example_writer(self) -> ExampleWriter:
        return _CountingWriter(self._progress, file_format=self.info.file_format)


class _CountingWriter(ExampleWriter):
    def __init__(self, progress: Progress, **kwargs: Any):
        super().__init__(**kwargs)
        self._progress = progress

    def write(self, path: str, examples: Iterable[Any]) -> Any:
        def counted() -> Iterator[Any]:
            for example in examples:
                yield example
                self._progress.count(1)

        return super().write(path, counted())
