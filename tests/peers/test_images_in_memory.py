"""The batches of timm's training are drawn as ours are."""

import collections
import importlib.util
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cifar_fractions

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # from PyTorch and timm
]


def modules() -> tuple[Any, Any]:
    from tests.peers import images_in_memory

    return images_in_memory, images_in_memory.torch


def config_of(batch_size: int) -> ConfigDict:
    config = cifar_fractions.get_config()
    config.image_size = config.eval_resize = 8
    config.batch_size = batch_size
    return config


def test_batches_hold_random_parts_of_the_padded_images_half_of_them_mirrored():
    images_in_memory, torch = modules()
    config = config_of(500)
    config.train_crop = ConfigDict({"name": "padded_crop", "padding": 1})
    config.flip = True
    images = np.arange(1, 1 + 2 * 8 * 8).reshape(2, 8, 8, 1).repeat(3, 3).astype(np.uint8)
    batches = images_in_memory.train_batches(config, torch.tensor(images), torch.tensor([0, 1]))
    torch.manual_seed(0)
    batch, labels = next(batches)
    assert labels.bincount().tolist() == [250, 250]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = {
        padded[label, top : top + 8, left : left + 8][:, ::turn].tobytes(): (label, top, left, turn)
        for label, top, left, turn in np.ndindex(2, 3, 3, 2)
        for turn in [1 - 2 * turn]
    }
    assert len(windows) == 36
    found = [windows[image.tobytes()] for image in batch.numpy()]
    assert [label for label, *_ in found] == labels.tolist()
    counts = collections.Counter(found)
    assert len(counts) == 36
    assert 4 <= min(counts.values()) <= max(counts.values()) <= 30
    assert 200 <= sum(turn == 1 for *_, turn in found) <= 300
