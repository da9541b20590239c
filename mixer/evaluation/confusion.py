"""Which classes are taken for which, and the mistakes that the model was surest of."""

import collections
import csv
import dataclasses
import io
from typing import Any

import numpy as np

from mixer.evaluation.prediction_table import cell

MAX_MISTAKES = 12  # whose images are kept


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image whose most probable class is not one of its labels."""

    image: np.ndarray  # uint8 [size, size, 3], after preprocessing
    true: int
    predicted: int
    probability: float  # of the predicted class, softmax


class Confusion:
    """Counts of pairs (true class, predicted class) over the labelled images.

    Of an image with several labels the true class is the predicted one, if it is among them, else
    the first.
    """

    def __init__(self) -> None:
        self.class_names: list[str] = []  # in label order
        self.counts: collections.Counter[tuple[int, int]] = collections.Counter()
        self.mistakes: list[Mistake] = []  # the most confident first

    def add(self, batch: dict[str, np.ndarray], outputs: dict[str, Any]) -> None:
        """Counts a batch, given what the step of `make_eval_step` returns for it."""
        predictions = zip(outputs["predicted"], outputs["probability"], strict=True)
        rows = zip(batch["images"], batch["labels"], predictions, strict=True)
        for image, labels, (predicted, probability) in rows:
            known = labels[labels >= 0]
            if not known.size:
                continue
            true = int(predicted if predicted in known else known[0])
            self.counts[true, int(predicted)] += 1
            if true != predicted:
                self.mistakes.append(Mistake(image, true, int(predicted), float(probability)))
        self.mistakes.sort(key=lambda mistake: -mistake.probability)
        self.mistakes = [
            dataclasses.replace(mistake, image=mistake.image.copy())  # without its batch
            for mistake in self.mistakes[:MAX_MISTAKES]
        ]

    def most_confused(self, number: int) -> list[int]:
        """Returns the classes that take part in most mistakes, `number` of them, in label order.

        Classes without a mistake fill up, those with most images first.
        """
        mistakes: collections.Counter[int] = collections.Counter()
        images: collections.Counter[int] = collections.Counter()
        for (true, predicted), count in self.counts.items():
            images[true] += count
            images[predicted] += 0
            if true != predicted:
                mistakes[true] += count
                mistakes[predicted] += count
        ranked = sorted(images, key=lambda label: (-mistakes[label], -images[label], label))
        return sorted(ranked[:number])

    def matrix(self, labels: list[int]) -> np.ndarray:
        """Returns the counts for some classes, `[true, predicted]`."""
        return np.array([[self.counts[row, column] for column in labels] for row in labels])

    def as_csv(self) -> str:
        """Returns a table of all pairs that occur: true_class, predicted_class, count."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true_class", "predicted_class", "count"])
        for (true, predicted), count in sorted(self.counts.items()):
            names = self.class_names[true], self.class_names[predicted]
            writer.writerow([*map(cell, names), count])
        return text.getvalue()
