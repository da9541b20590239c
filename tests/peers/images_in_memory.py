"""Small images for PyTorch: a data set decoded once, and its training batches from memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tests.peers.timm_peer import import_timm

torch, _ = import_timm()


def read_split(config: ConfigDict, split: str, fraction: float = 1.0) -> tuple[Any, Any, int]:
    """Returns images, uint8 `[n, H, W, 3]`, and labels, int64 `[n]`, of a split, and its classes.

    They are read and brought to `image_size` as we do for an evaluation.

    Raises:
      ValueError: the split is not there, or an image has several labels.
    """
    from mixer.data import datasets, input_pipeline, preprocess

    dataset = datasets.open_dataset(
        config.dataset, split, config.data_dir, fraction=fraction, label_key=config.label_key
    )
    if dataset.labels_per_image != 1:
        raise ValueError(f"Expected one label per image; {config.dataset} has several.")
    rows = np.arange(500)
    decode = preprocess.make_eval_preprocess(
        size=config.image_size, crop=config.eval_crop, resize=config.eval_resize
    )
    batches = list(
        input_pipeline.EvalInput(
            dataset, decode, batch_size=len(rows), rows=rows, prefetch=2, cache=False
        ).one_pass()
    )
    images, labels = (np.concatenate([b[key] for b in batches]) for key in ("images", "labels"))
    count = len(dataset.records)  # the last batch is padded
    labels = torch.from_numpy(labels[:count, 0].astype(np.int64))
    return torch.from_numpy(images[:count]), labels, dataset.num_classes


def train_batches(config: ConfigDict, images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """Yields batches without end, cropped and flipped, each epoch in a new order.

    They are on the device of the images. Randomness is PyTorch's global.
    """
    padding = config.train_crop.padding
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < config.batch_size:
            order = torch.cat([order, torch.randperm(len(images))])
        chosen, order = order[: config.batch_size], order[config.batch_size :]
        batch = _crop_and_flip(padded, chosen, config.image_size, padding, flip=config.flip)
        yield batch, labels[chosen]


def _crop_and_flip(padded: Any, chosen: Any, size: int, padding: int, *, flip: bool) -> Any:
    """Returns the chosen images, `[B, size, size, 3]`: a random part, half of them mirrored."""
    count, pixels = len(chosen), torch.arange(size)
    top, left = torch.randint(2 * padding + 1, (2, count, 1))
    mirrored = torch.rand(count, 1) < (0.5 if flip else 0.0)
    rows, columns = top + pixels, left + torch.where(mirrored, pixels.flip(0), pixels)
    return padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]
