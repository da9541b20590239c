"""ViT, BiT-ResNet and gMLP through the loop: resumed, on other devices, learning the digits."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from children import one_device

from mixer.losses import softmax_cross_entropy
from mixer.reporting.metrics import read_metrics
from mixer.sharding import create_mesh
from mixer.train_loop import train
from tests.models.tiny import TINY, digits_config, tiny_model
from tests.test_train_loop import read_lines, read_state
from tests.test_train_step import losses_over

OTHERS = [pytest.param(family, marks=pytest.mark.slow) for family in ("bit", "gmlp")]


@pytest.mark.slow  # the loop knows of no family: the fast tests resume Mixer
@pytest.mark.parametrize("family", ["vit", "bit", "gmlp"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    tmp_path, data_dir, family, on_one_device, no_pictures
):
    config = digits_config(family)
    config.data_dir = data_dir
    config.num_epochs = 5 * 64 / 1433
    config.eval_splits.test = "test[:64]"
    config.optimizer.warmup_steps = 2
    config.log_every, config.checkpoint_every, config.eval_every = 2, 3, 5
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config, whole)
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "5")
    train(config, resumed)
    first, second = (read_state(config, path, 5) for path in (whole, resumed))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [line["step"] for line in read_lines(whole)] == [2, 4, 5, 5]
    assert read_lines(resumed) == read_lines(whole)


@pytest.mark.slow  # nor does the step: the fast tests compare those of Mixer
@pytest.mark.parametrize("family", ["vit", "bit", "gmlp"])
def test_one_device_and_eight_agree(family, one_device_mesh):
    # At 8 x 8 pixels, BiT's last group norm would be over one value, and divide by rounding.
    # Adam would divide gradients that are nearly 0, as some of gMLP's stem are, by themselves: the
    # rounding of the first step's sums becomes a whole update.
    options = dict(image_size=16, loss=softmax_cross_entropy, optimizer=optax.sgd(0.1))
    one, state = losses_over(4, tiny_model(family), one_device_mesh, **options)
    eight, same = losses_over(4, tiny_model(family), create_mesh(fsdp=4), **options)
    np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6)
    assert len(set(one)) == 4
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(same.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(TINY))
def test_each_family_learns_the_digits(tmp_path, data_dir, family):
    subprocess.run(
        [
            *(sys.executable, "-m", "mixer.main", f"--config=configs/digits.py:{family}"),
            *(f"--workdir={tmp_path}", f"--config.data_dir={data_dir}"),
        ],
        env={**os.environ, "XLA_FLAGS": one_device()},
        check=True,
        timeout=1200,
    )
    final: dict[str, float] = {}
    for line in read_metrics(tmp_path):
        final |= line
    assert final["test/top1"] >= 0.96
    assert final["train_seconds"] <= 90
