"""Few-shot evaluation: top-1 of a linear probe of frozen features.

The features are the model's pre-logits. A ridge regression maps the standardised features of
`shots` images per class to targets of +1 for the class and -1 for all others. It is solved in
closed form, and the class with the highest score is predicted.

Dimensions: n images, C features, K classes.

Source: the paper's "linear 5-shot" (section 3.1, Figures 2 and 4) does not give the details. The l2
penalty, the constant feature, the standardisation and the choice of images by seed follow the
authors' public evaluation code.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mixer.batch import HostBatch, normalize_images
from mixer.data.overlap import count_shared
from mixer.evaluation.classification import check_outputs
from mixer.sharding import replicated, to_global

if TYPE_CHECKING:
    from mixer.data.datasets import Dataset

L2 = 2.0**10
SEEDS = (0, 1, 2)

# Value of a constant feature that models the intercept; it is large so that l2 barely shrinks it.
_CONSTANT = 100.0

FeaturesStep = Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class FewShot:
    """What a probe during training is fitted to and scored on."""

    num_classes: int
    shots: int
    train: Callable[[], Iterator[HostBatch]]  # one pass
    test: Callable[[], Iterator[HostBatch]]


class LinearProbe(NamedTuple):
    """A fitted probe: the scores are `(features - mean) * scale @ kernel + bias`."""

    mean: jax.Array  # [C]
    scale: jax.Array  # [C]
    kernel: jax.Array  # [C, K]
    bias: jax.Array  # [K]


def make_features_step(model: nn.Module) -> FeaturesStep:
    """Returns (params, batch) -> float32 pre-logits `[B, C]` and labels `[B, labels]`."""
    headless = model.clone(num_classes=0)

    def features_step(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        features: Any = headless.apply({"params": params}, normalize_images(batch["images"]))
        return features, batch["labels"]

    return features_step


def jit_features_step(model: nn.Module, mesh: Mesh) -> FeaturesStep:
    """Returns the jitted step of `make_features_step`, with its outputs replicated over `mesh`."""
    return jax.jit(make_features_step(model), out_shardings=replicated(mesh))


def check_splits(train: "Dataset", test: "Dataset", dataset: str, names: Sequence[str]) -> None:
    """Raises ValueError unless a probe can be fitted to one and scored on the other.

    They must have no image in common, and the same classes. `names` are where the two splits are
    given, and as what: "--split=test".
    """
    if shared := count_shared(train.pieces, test.pieces):
        raise ValueError(
            f"Expected training images of the probe that are not among the test images; "
            f"{' and '.join(names)} of {dataset} share {shared:,}. Name splits that do not "
            "overlap, such as train[:90%] and train[90%:]."
        )
    if test.class_names != train.class_names:
        raise ValueError(
            f"Expected the same classes with {' and '.join(names)} of {dataset}; got "
            f"{len(train.class_names):,} and {len(test.class_names):,}, or another order. Use "
            "other splits."
        )


def compute_features(
    features_step: FeaturesStep,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    sharding: NamedSharding,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features `[n, C]` and labels `[n]` of all images that have a label.

    `features_step` is from `jit_features_step`; `batches` hold
    this process's part of each global batch. Only the features are kept in memory.

    Raises:
      ValueError: an image may have several labels, or no image has one.
      FloatingPointError: a feature is not finite.
    """
    kept = []
    for batch in batches:
        features, labels = jax.device_get(features_step(params, to_global(batch, sharding)))
        if labels.shape[1] != 1:
            raise ValueError(
                "Expected one label per image for a few-shot probe; got a dataset with up to "
                f"{labels.shape[1]}. Use a single-label dataset."
            )
        labelled = labels[:, 0] >= 0  # padding has no label
        kept.append((features[labelled], labels[labelled, 0]))
    features, labels = (np.concatenate(part) for part in zip(*kept, strict=True))
    if not len(labels):
        raise ValueError("Expected labelled images; the split has none. Use another split.")
    check_outputs("features", bool(np.isfinite(features).all()))
    return features, labels


def check_shots(labels: np.ndarray, num_classes: int, shots: int) -> None:
    """Raises ValueError if any class occurs fewer than `shots` times in `labels [n]`."""
    counts = np.bincount(labels, minlength=num_classes)
    short = np.flatnonzero(counts < shots)
    if len(short):
        found = ", ".join(f"{counts[label]} of class {label}" for label in short[:10])
        more = f" and {len(short) - 10:,} more classes" if len(short) > 10 else ""
        raise ValueError(
            f"Expected at least {shots} training images for each of the {num_classes:,} classes; "
            f"got {found}{more}. Use fewer shots or a larger training split."
        )


def choose_shots(labels: np.ndarray, num_classes: int, shots: int, seed: int) -> np.ndarray:
    """Returns the indices of `shots` random images per class, `int64 [num_classes * shots]`."""
    rng = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == label) for label in range(num_classes)]
    return np.concatenate([rng.permutation(indices)[:shots] for indices in of_class])


@functools.partial(jax.jit, static_argnames="num_classes")
@jax.default_matmul_precision("highest")
def fit_ridge(
    features: jax.Array, labels: jax.Array, *, num_classes: int, l2: float
) -> LinearProbe:
    """Fits a ridge regression of features `[n, C]` to labels `[n]`.

    Minimises `sum((x @ w - y)**2) + l2 * sum(w**2)` over all weights `w`, the intercept's included,
    where `x` holds the standardised features and a constant. The standardised features have zero
    mean and are orthogonal to the constant, so the intercept decouples. The C x C and n x n systems
    give the same kernel; the smaller one is solved.
    """
    mean = jnp.mean(features, axis=0)
    scale = 1.0 / (jnp.std(features, axis=0) + 1e-5)
    x = (features - mean) * scale  # [n, C]
    y = 2.0 * jax.nn.one_hot(labels, num_classes) - 1.0  # [n, K]
    if x.shape[0] < x.shape[1]:
        kernel = x.T @ _solve(x @ x.T, l2, y)
    else:
        kernel = _solve(x.T @ x, l2, x.T @ y)
    bias = jnp.sum(y, axis=0) / (x.shape[0] + l2 / _CONSTANT**2)
    return LinearProbe(mean, scale, kernel, bias)


def _solve(gram: jax.Array, l2: float, y: jax.Array) -> jax.Array:
    """Returns `(gram + l2 * identity)^-1 @ y` for a symmetric `gram`."""
    values, vectors = jnp.linalg.eigh(gram)
    return vectors @ ((vectors.T @ y) / (values + l2)[:, None])


@jax.jit
@jax.default_matmul_precision("highest")
def probe_scores(probe: LinearProbe, features: jax.Array) -> jax.Array:
    """Returns the scores `[n, K]` of features `[n, C]`."""
    return (features - probe.mean) * probe.scale @ probe.kernel + probe.bias


def few_shot_accuracy(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    num_classes: int,
    shots: int,
    seeds: Sequence[int] = SEEDS,
) -> float:
    """Returns the top-1 accuracy in [0, 1] on the test features, averaged over `seeds`.

    `train` and `test` are features `[n, C]` and labels `[n]`. For each seed, `shots` random
    training images per class are used.

    Raises:
      ValueError: a class has too few training images; the message names the classes.
    """
    train_features, train_labels = train
    test_features, test_labels = test
    check_shots(train_labels, num_classes, shots)
    accuracies = []
    for seed in seeds:
        chosen = choose_shots(train_labels, num_classes, shots, seed)
        probe = fit_ridge(
            train_features[chosen], train_labels[chosen], num_classes=num_classes, l2=L2
        )
        predicted = jnp.argmax(probe_scores(probe, test_features), axis=-1)
        accuracies.append(np.mean(jax.device_get(predicted) == test_labels))
    return float(np.mean(accuracies))


def evaluate_probe(
    features_step: FeaturesStep,
    params: Any,
    images: FewShot,
    sharding: NamedSharding,
    guard: Callable[[Iterator[HostBatch]], Iterator[HostBatch]] = iter,
) -> dict[str, float]:
    """Returns `top1` in [0, 1] of a probe of the features, and the `count` of its test images.

    Each pass over images goes through `guard`.

    Raises:
      ValueError: a class has too few training images.
    """
    train = compute_features(features_step, params, guard(images.train()), sharding)
    check_shots(train[1], images.num_classes, images.shots)  # before the test images are read
    test = compute_features(features_step, params, guard(images.test()), sharding)
    top1 = few_shot_accuracy(train, test, num_classes=images.num_classes, shots=images.shots)
    return {"top1": top1, "count": len(test[1])}
