"""The hidden units of token mixing as the paper orders them: in pairs of opposing phase, low first.

Dimensions: S tokens on a grid of rows and columns, D hidden units.

Source: section 3.5 and Appendix D. The paper's measure of frequency is "a heuristic"; here it is
the mean frequency of a unit's power spectrum.
"""

import numpy as np


def frequencies(units: np.ndarray) -> np.ndarray:
    """Returns the mean frequency of each unit, `[D, rows, columns]` to `[D]`, cycles per token.

    The mean is weighted by the power at each frequency; of a constant unit it is 0.
    """
    power = np.abs(np.fft.fft2(units)) ** 2
    rows, columns = (np.fft.fftfreq(size) for size in units.shape[1:])
    radius = np.hypot(rows[:, None], columns[None, :])
    total = power.sum(axis=(1, 2))
    return (power * radius).sum(axis=(1, 2)) / np.where(total > 0, total, 1)


def pair_units(units: np.ndarray) -> np.ndarray:
    """Returns the order in which the paper shows units `[D, rows, columns]`, `int64 [D]`.

    Places 0 and 1, 2 and 3, ... are pairs, each unit with the one that is closest to its negative,
    by the cosine; the most opposed are paired first. Pairs are in the order of their frequency, and
    within a pair the first is the one with the larger sum. Of an odd number, the last has no pair.
    """
    flat = units.reshape(len(units), -1).astype(np.float64)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(lengths > 0, lengths, 1)
    first, second = np.triu_indices(len(flat), k=1)
    opposed_first = np.argsort((flat @ flat.T)[first, second], kind="stable")
    free, pairs = np.ones(len(flat), bool), []
    for one, other in zip(first[opposed_first], second[opposed_first], strict=True):
        if free[one] and free[other]:
            free[[one, other]] = False
            pairs.append(sorted((one, other), key=lambda unit: -flat[unit].sum()))
    score = frequencies(units)
    pairs.sort(key=lambda pair: score[pair].mean())
    return np.array([*(unit for pair in pairs for unit in pair), *np.flatnonzero(free)], np.int64)
