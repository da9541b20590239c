"""The change of resolution: on each tile the original model, exactly."""

import functools

import jax
import numpy as np
import pytest

from mixer.batch import normalize_images
from mixer.data.datasets import open_dataset
from mixer.data.input_pipeline import EvalInput
from mixer.data.preprocess import make_eval_preprocess
from mixer.evaluation.few_shot import few_shot_accuracy
from mixer.models.mixer import MlpMixer
from mixer.weights.resize import resize_resolution

PATCH = 4


def make_model(tokens_mlp_dim: int) -> MlpMixer:
    return MlpMixer(
        num_classes=7,
        num_blocks=3,
        patch_size=PATCH,
        hidden_dim=24,
        tokens_mlp_dim=tokens_mlp_dim,
        channels_mlp_dim=40,
    )


def random_params(model: MlpMixer, shape: tuple[int, int], seed: int = 0):
    """Returns parameters of which none is zero or constant, as in a trained model."""
    abstract = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *shape, 3), np.float32))
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.normal(0.0, 0.3, x.shape).astype(np.float32), abstract["params"]
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model: MlpMixer, params, images):
    """Returns logits, pre-logits and the token features of every block."""
    logits, state = model.apply(
        {"params": params}, images, capture_intermediates=lambda module, _: True
    )
    blocks = [
        state["intermediates"][f"MixerBlock_{i}"]["__call__"][0] for i in range(model.num_blocks)
    ]
    pre_logits = model.clone(num_classes=0).apply({"params": params}, images)
    return logits, pre_logits, blocks


@pytest.mark.parametrize("grid", [(2, 3), pytest.param((3, 3), marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "tiles", [(1, 1), (2, 2), (1, 2), pytest.param((3, 3), marks=pytest.mark.slow)]
)
def test_every_tile_is_processed_as_by_the_original_model(grid, tiles):
    height, width = (PATCH * side for side in grid)
    small = make_model(10)
    params = random_params(small, (height, width))
    num_tiles = tiles[0] * tiles[1]
    large = make_model(10 * num_tiles)
    new_grid = (grid[0] * tiles[0], grid[1] * tiles[1])
    resized = resize_resolution(params, old_grid=grid, new_grid=new_grid)
    shape = (2, height * tiles[0], width * tiles[1], 3)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    logits, pre_logits, features = run(large, resized, images)
    of_tiles = []
    for row in range(tiles[0]):
        for column in range(tiles[1]):
            part = np.s_[:, row * height :, column * width :]
            tile = images[part][:, :height, :width]
            _, tile_pre_logits, tile_features = run(small, params, tile)
            of_tiles.append(tile_pre_logits)
            for whole, expected in zip(features, tile_features, strict=True):
                whole = whole.reshape(2, *new_grid, -1)
                rows = slice(row * grid[0], (row + 1) * grid[0])
                columns = slice(column * grid[1], (column + 1) * grid[1])
                found = whole[:, rows, columns].reshape(expected.shape)
                np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    mean = np.mean(of_tiles, axis=0)
    np.testing.assert_allclose(pre_logits, mean, atol=1e-5, rtol=0)
    head = params["head"]
    np.testing.assert_allclose(logits, mean @ head["kernel"] + head["bias"], atol=1e-5, rtol=0)


def test_a_plain_kronecker_product_would_be_wrong():
    """The tiles interleave in the row-major order of tokens, so the test above can tell."""
    params = random_params(make_model(10), (8, 8))
    resized = resize_resolution(params, old_grid=(2, 2), new_grid=(4, 4))
    kernel = params["MixerBlock_0"]["token_mixing"]["Dense_0"]["kernel"]
    found = resized["MixerBlock_0"]["token_mixing"]["Dense_0"]["kernel"]
    assert not np.array_equal(found, np.kron(np.eye(4), kernel))
    # Tokens 0, 1, 4 and 5 of the large image are the first tile.
    np.testing.assert_array_equal(found[[0, 1, 4, 5], :10], kernel)
    assert np.count_nonzero(found) == 4 * kernel.size


def test_the_same_grid_changes_nothing():
    params = random_params(make_model(10), (8, 8))
    resized = resize_resolution(params, old_grid=(2, 2), new_grid=(2, 2))
    jax.tree.map(np.testing.assert_array_equal, resized, params)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ((14, 14), (24, 24), "multiple of 14 x 14; got 24 x 24. Use 14, 28, 42, ..."),
        ((2, 2), (1, 1), "multiple of 2 x 2; got 1 x 1"),
        ((2, 2), (0, 2), "got 0 x 2"),
        ((3, 3), (6, 6), "Expected weights for 3 x 3 tokens; those of MixerBlock_0 are for 4"),
    ],
)
def test_what_cannot_be_resized_is_refused(old, new, message):
    params = random_params(make_model(10), (8, 8))
    with pytest.raises(ValueError, match=message):
        resize_resolution(params, old_grid=old, new_grid=new)


@pytest.mark.slow
def test_a_probe_of_the_digits_at_twice_the_resolution(data_dir):
    """The features at 32 pixels are as good as the mean over four tiles of the 16-pixel model."""
    small, params = make_model(10), random_params(make_model(10), (16, 16))
    large, resized = make_model(40), resize_resolution(params, (4, 4), (8, 8))
    probes = []
    for split in ("train", "test"):
        dataset = open_dataset("digits", split, data_dir)
        batches = EvalInput(
            dataset,
            make_eval_preprocess(size=32, crop="resize_crop", resize=32),
            batch_size=len(dataset.records),
            rows=np.arange(len(dataset.records)),
            prefetch=1,
            cache=False,
        ).one_pass()
        (batch,) = batches
        images = normalize_images(batch["images"])
        tiles = images.reshape(-1, 2, 16, 2, 16, 3).swapaxes(2, 3).reshape(-1, 16, 16, 3)
        of_tiles = jax.jit(small.clone(num_classes=0).apply)({"params": params}, tiles)
        means = np.asarray(of_tiles).reshape(len(images), 4, -1).mean(axis=1)
        apply = jax.jit(large.clone(num_classes=0).apply)
        features = np.asarray(apply({"params": resized}, images))
        np.testing.assert_allclose(features, means, atol=1e-5, rtol=0)
        probes.append((features, means, batch["labels"][:, 0]))
    (train_large, train_mean, train_labels), (test_large, test_mean, test_labels) = probes
    accuracies = [
        few_shot_accuracy((train, train_labels), (test, test_labels), num_classes=10, shots=100)
        for train, test in ((train_large, test_large), (train_mean, test_mean))
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)
    assert 0.3 < accuracies[1] < 0.8  # from random features, where chance is 0.1
