"""Writes datasets made of images on disk, in TFDS's format, as ArrayRecord files.

A dataset is written to a temporary folder, which is renamed when it is complete. An interrupted one
is therefore never mistaken for a dataset, and the same command starts it again.

  ingest.py   what is requested and where it goes: arguments, class names, lock, disk space
  sources.py  the splits, classes and images of a source, read and checked
  builder.py  the TFDS builder that writes them, and its progress display
  report.py   what was written, what was left out, and the flags to train on it
"""

from mixer.data.prepare.ingest import ingest_images
from mixer.data.prepare.report import IngestReport, training_flags

__all__ = ["IngestReport", "ingest_images", "training_flags"]
