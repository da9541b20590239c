"""The linear probe against a direct solution, on any number of devices, without the padding."""

import jax
import numpy as np
import pytest

from mixer.data.datasets import open_dataset
from mixer.data.input_pipeline import EvalInput
from mixer.data.preprocess import make_eval_preprocess
from mixer.evaluation import few_shot
from mixer.sharding import batch_sharding, create_mesh, replicated


def solve_directly(features, labels, num_classes, l2, test_features):
    """Ridge regression as its definition says, constant feature included, in float64."""
    features, test_features = np.float64(features), np.float64(test_features)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-5
    x, test_x = (
        np.concatenate([(f - mean) / scale, np.full((len(f), 1), 100.0)], axis=1)
        for f in (features, test_features)
    )
    y = 2.0 * np.eye(num_classes)[labels] - 1.0
    weights = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)
    return test_x @ weights


@pytest.mark.parametrize(("n", "channels"), [(12, 40), (39, 40), (40, 40), (300, 40)])
@pytest.mark.parametrize("l2", [few_shot.L2, 1.0])
def test_the_scores_are_those_of_the_direct_solution(n, channels, l2):
    rng = np.random.default_rng(n)
    features = rng.normal(3.0, rng.uniform(0.1, 5.0, channels), (n + 20, channels))
    features = np.float32(features @ rng.normal(size=(channels, channels)))  # correlated
    labels = np.arange(n) % 3  # the last class may have fewer images
    probe = few_shot.fit_ridge(features[:n], labels, num_classes=3, l2=l2)
    scores = few_shot.probe_scores(probe, features[n:])
    expected = solve_directly(features[:n], labels, 3, l2, features[n:])
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


def test_a_seed_chooses_so_many_of_each_class():
    labels = np.random.default_rng(0).integers(0, 4, 200)
    chosen = few_shot.choose_shots(labels, 4, 10, seed=0)
    assert labels[chosen].tolist() == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    assert len(set(chosen.tolist())) == 40
    first = np.random.default_rng(0).permutation(np.flatnonzero(labels == 0))[:10]
    np.testing.assert_array_equal(chosen[:10], first)
    assert set(chosen) != set(few_shot.choose_shots(labels, 4, 10, seed=1))
    one_shot = few_shot.choose_shots(labels, 4, 1, seed=0)
    np.testing.assert_array_equal(one_shot, chosen[::10])


def test_classes_with_too_few_images_are_named():
    features, labels = np.zeros((9, 2), np.float32), np.array([0, 0, 0, 1, 1, 3, 3, 3, 3])
    with pytest.raises(ValueError, match="at least 3 .* got 2 of class 1, 0 of class 2. Use fewer"):
        few_shot.few_shot_accuracy((features, labels), (features, labels), num_classes=4, shots=3)


def test_the_accuracy_is_the_mean_over_the_seeds():
    # One feature. Class 0: 16 images at -1 and 4 at 5; class 1: 20 images at 1. A probe of one
    # shot divides the line in the middle: right are 16 + 20, or, with an outlier, 4 + 20.
    features = np.float32([-1.0] * 16 + [5.0] * 4 + [1.0] * 20)[:, None]
    labels = np.repeat([0, 1], 20)
    outlier = [few_shot.choose_shots(labels, 2, 1, seed)[0] >= 16 for seed in range(8)]
    assert 0 < sum(outlier) < 8
    data = (features, labels)
    accuracy = few_shot.few_shot_accuracy(data, data, num_classes=2, shots=1, seeds=range(8))
    assert accuracy == pytest.approx(np.mean(np.where(outlier, 24, 36)) / 40)


def read_features(model, params, data_dir: str, split: str, num_devices: int):
    mesh = create_mesh(jax.devices()[:num_devices])
    eval_input = EvalInput(
        open_dataset("digits", split, data_dir),
        make_eval_preprocess(size=8, crop="resize_crop", resize=8),
        batch_size=48,
        rows=np.arange(48),
        prefetch=1,
        cache=False,
    )
    step = jax.jit(few_shot.make_features_step(model), out_shardings=replicated(mesh))
    params = jax.device_put(params, replicated(mesh))
    return few_shot.compute_features(step, params, eval_input.one_pass(), batch_sharding(mesh))


def test_digits_by_a_mixer_that_has_learnt_nothing(data_dir, tiny_mixer):
    params = jax.jit(tiny_mixer.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    train, test = (
        read_features(tiny_mixer, params, data_dir, split, num_devices=8)
        for split in ("train", "test")
    )
    # 364 = 7 * 48 + 28: nothing of the padding of the last batch, and the images in order.
    assert test[0].shape == (364, 16)
    dataset = open_dataset("digits", "test", data_dir)
    in_order = dataset.parse(dataset.records.read(np.arange(364)))["labels"].numpy()[:, 0]
    np.testing.assert_array_equal(test[1], in_order)

    on_one_device = read_features(tiny_mixer, params, data_dir, "test", num_devices=1)
    np.testing.assert_allclose(test[0], on_one_device[0], atol=1e-5)
    for shots, least, most in ((1, 0.2, 0.35), (25, 0.42, 0.55)):  # chance is 0.1
        accuracy, on_one = (
            few_shot.few_shot_accuracy(train, part, num_classes=10, shots=shots)
            for part in (test, on_one_device)
        )
        assert least < accuracy < most
        assert accuracy == on_one


def test_images_with_sets_of_labels_or_without_any_are_refused():
    sharding = batch_sharding(create_mesh(jax.devices()[:1]))
    step = lambda params, batch: (batch["images"], batch["labels"])  # noqa: E731
    images = np.zeros((2, 3), np.float32)
    for labels, message in (([[0, 1], [2, -1]], "up to 2"), ([[-1], [-1]], "the split has none")):
        batch = {"images": images, "labels": np.array(labels, np.int32)}
        with pytest.raises(ValueError, match=message):
            few_shot.compute_features(step, {}, [batch], sharding)
