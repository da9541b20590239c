"""The embedded dataset: scikit-learn's 1,797 handwritten digits as a TFDS dataset.

They are real images (8 x 8 grey-level scans, 43 writers; Alpaydin and Kaynak, 1998, UCI "Optical
Recognition of Handwritten Digits", CC BY 4.0) and come with an installed package, so a new clone
trains on real data without a download.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

_MAX_LEVEL = 16  # grey levels are 0 to 16


class Digits(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder: 1,433 training and 364 test images in 10 classes.

    The split is fixed and stratified: in each class, every fifth image in scikit-learn's order
    (the first, the sixth, ...) is a test image.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, object]]]]:
        del dl_manager  # nothing to download
        from sklearn.datasets import load_digits  # slow to import, and used once per machine

        images, labels = load_digits(return_X_y=True)
        images = np.round(images.reshape(-1, 8, 8, 1) * (255 / _MAX_LEVEL)).astype(np.uint8)
        rank_in_class = np.zeros(len(labels), int)
        for digit in range(10):
            rank_in_class[labels == digit] = np.arange(np.sum(labels == digit))
        is_test = rank_in_class % 5 == 0
        return {
            "train": self._examples(images, labels, ~is_test),
            "test": self._examples(images, labels, is_test),
        }

    def _generate_examples(self) -> None:
        raise AssertionError("_split_generators returns the generators.")

    @staticmethod
    def _examples(
        images: np.ndarray, labels: np.ndarray, chosen: np.ndarray
    ) -> Iterator[tuple[int, dict[str, object]]]:
        for index in np.flatnonzero(chosen):
            yield int(index), {"image": images[index], "label": int(labels[index])}
