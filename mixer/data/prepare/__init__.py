"""Writes datasets to disk in TFDS's format, as ArrayRecord files: TFDS's own, or any images.

A dataset is written beside its place and renamed when it is complete. What is interrupted is not
taken for a dataset, and the same command begins again.

  tfds_datasets.py  the datasets that TFDS itself downloads and writes
  ingest.py         a dataset made of images on disk: what is asked for, checked and run
  builder.py        its TFDS builder: features, keys, examples and the report
  sources.py        which classes of which splits lie where, and their labels
  images.py         the images of a folder or a tar file, read and checked
  destination.py    the place to write to: locked, never overwritten, large enough
  report.py         what was written and left out, and the flags that train on it
  progress.py       what a person sees meanwhile
"""

from mixer.data.prepare.ingest import ingest_images
from mixer.data.prepare.report import IngestReport, training_flags
from mixer.data.prepare.sources import read_class_names
from mixer.data.prepare.tfds_datasets import prepare_tfds

__all__ = ["IngestReport", "ingest_images", "prepare_tfds", "read_class_names", "training_flags"]
