"""The order: a function of (seed, step), every example once per epoch, shuffled well."""

import numpy as np
import pytest

from mixer.data.order import ExampleOrder, permute


def permutation(size: int, key: int) -> np.ndarray:
    sizes = np.full(size, size)
    return permute(np.arange(size), sizes, np.full(size, key * 7919 + 1, np.uint64))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 50, 97, 1433, 65536])
def test_permute_is_a_permutation(size):
    for key in range(5):
        np.testing.assert_array_equal(np.sort(permutation(size, key)), np.arange(size))


def epochs(size: int, number: int) -> np.ndarray:
    """Returns the first epochs of an order, `[number, size]`."""
    order = ExampleOrder(num_examples=size, batch_size=size, seed=3)
    return np.stack([order.indices(epoch, np.arange(size)) for epoch in range(number)])


@pytest.mark.parametrize(("size", "number"), [(50, 4000), (1797, 100), (1_281_167, 3)])
def test_quality_of_the_shuffle(size, number):
    """Every correlation below is 0 for true permutations, its z standard normal."""
    ranks = (epochs(size, number) - (size - 1) / 2) / np.sqrt((size**2 - 1) / 12)
    position = (np.arange(size) - (size - 1) / 2) / np.sqrt((size**2 - 1) / 12)

    def z(products):  # the mean of n products of standardised values times sqrt(n)
        return abs(products.mean()) * np.sqrt(products.size)

    assert z(ranks * position) < 4  # an early example stays early
    # Neighbours of a permutation correlate with -1 / (size - 1) by chance alone.
    assert z(ranks[:, 1:] * ranks[:, :-1] + 1 / (size - 1)) < 4
    assert z(ranks[1:] * ranks[:-1]) < 4  # an epoch resembles the next


def test_small_permutations_are_uniform():
    # Where the first of 50 lands, over 20,000 epochs: chi-squared with 49 degrees of freedom.
    order = ExampleOrder(num_examples=50, batch_size=50, seed=0)
    first = [order.indices(epoch, np.array([0]))[0] for epoch in range(20_000)]
    counts = np.bincount(first, minlength=50)
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert abs(chi_squared - 49) / np.sqrt(2 * 49) < 4


def test_every_epoch_holds_every_example_once_across_batch_edges():
    order = ExampleOrder(num_examples=10, batch_size=4, seed=0)
    stream = np.concatenate([order.indices(step, np.arange(4)) for step in range(10)])
    by_epoch = stream.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(by_epoch, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in by_epoch}) == 4


@pytest.mark.parametrize("num_stripes", [1, 4])
def test_any_division_into_hosts_gives_the_same_batch(num_stripes):
    order = ExampleOrder(num_examples=103, batch_size=16, seed=1, num_stripes=num_stripes)
    for step in (0, 7, 10**9):
        whole = order.indices(step, np.arange(16))
        for hosts in (2, 4, 8):
            parts = [order.indices(step, rows) for rows in np.split(np.arange(16), hosts)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_stripes_divide_the_examples_evenly_and_drop_none():
    order = ExampleOrder(num_examples=103, batch_size=8, seed=1, num_stripes=4)
    edges = [0, 25, 51, 77, 103]
    for stripe in range(4):
        rows = np.arange(2 * stripe, 2 * stripe + 2)
        size = edges[stripe + 1] - edges[stripe]
        steps = [order.indices(step, rows) for step in range(size)]
        stream = np.concatenate(steps)  # two epochs of the stripe
        expected = np.arange(edges[stripe], edges[stripe + 1])
        np.testing.assert_array_equal(np.sort(stream[:size]), expected)
        np.testing.assert_array_equal(np.sort(stream[size:]), expected)


def test_seeds_give_different_orders():
    rows = np.arange(64)
    first, second = (ExampleOrder(1000, 64, seed).indices(0, rows) for seed in (0, 1))
    assert (first == second).mean() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_examples=100, batch_size=10, seed=0, num_stripes=3), "divisible by num_stripes"),
        (dict(num_examples=100, batch_size=10, seed=0, num_stripes=0), "num_stripes=0"),
        (dict(num_examples=3, batch_size=8, seed=0, num_stripes=4), "got 3 examples"),
        (dict(num_examples=3, batch_size=8, seed=-1), "seed of at least 0; got -1"),
    ],
)
def test_orders_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExampleOrder(**arguments)
