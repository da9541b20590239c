"""Figures 5 to 7: opposed units are paired, low frequencies come first, the pictures are drawn."""

import numpy as np
import pytest
from PIL import Image

from mixer.paper.units import frequencies, pair_units
from mixer.paper.weight_pictures import mosaic, stem_units, token_units
from tests.test_scripts import ROOT


def gratings() -> np.ndarray:
    """Returns 6 units [14, 14] of increasing frequency, each followed by its negative."""
    row, column = np.mgrid[:14, :14]
    phases = [2 * np.pi * k * (row + column) / 14 for k in (1, 2, 3, 4, 5, 6)]
    return np.stack([sign * np.cos(phase) for phase in phases for sign in (1, -1)])


def test_a_unit_and_its_negative_are_found_and_low_frequencies_come_first():
    rng = np.random.default_rng(0)
    units = gratings() * rng.uniform(0.5, 2, (12, 1, 1))  # other lengths, the same directions
    shuffled = rng.permutation(12)
    order = shuffled[pair_units(units[shuffled])]
    assert [{*order[n : n + 2]} for n in range(0, 12, 2)] == [{n, n + 1} for n in range(0, 12, 2)]
    with_noise = units + 0.1 * rng.normal(size=units.shape)
    assert [{*pair_units(with_noise)[:2]}] == [{0, 1}]


def test_the_most_opposed_are_paired_first_and_an_odd_one_is_last():
    units = np.array([[[1.0, 0.0]], [[-1.0, 0.1]], [[-1.0, 0.9]], [[1.0, -0.9]], [[0.0, 1.0]]])
    assert sorted(map(int, pair_units(units))) == [0, 1, 2, 3, 4]
    pairs = [{*map(int, pair_units(units)[n : n + 2])} for n in (0, 2)]
    assert pairs in ([{0, 1}, {2, 3}], [{2, 3}, {0, 1}])
    assert pair_units(units)[-1] == 4


def test_frequencies_by_hand():
    row, column = np.mgrid[:8, :8]
    units = np.stack([np.ones((8, 8)), np.cos(np.pi * column), np.cos(np.pi * row / 4), 0 * row])
    np.testing.assert_allclose(frequencies(units), [0, 0.5, 0.125, 0], atol=1e-12)


def test_tiles_are_where_they_belong():
    tiles = np.arange(3 * 2 * 2).reshape(3, 2, 2)
    picture = mosaic(tiles, columns=2)
    nan = np.nan
    expected = [[0, 1, nan, 4, 5], [2, 3, nan, 6, 7], [nan] * 5, [8, 9, *[nan] * 3]]
    np.testing.assert_array_equal(picture, [*expected, [10, 11, *[nan] * 3]])


def test_units_of_weights():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(9, 4))
    params = {
        "MixerBlock_0": {"token_mixing": {"Dense_0": {"kernel": kernel}}},
        "stem": {"kernel": rng.normal(size=(4, 4, 3, 5))},
    }
    units = token_units(params, 0)
    assert units.shape == (4, 3, 3)
    assert {tuple(unit.ravel()) for unit in units} == {tuple(column) for column in kernel.T}
    stem = stem_units(params)
    assert stem.shape == (5, 4, 4, 3)
    assert 0 <= stem.min() < 0.5 < stem.max() <= 1
    assert {round(float(np.abs(unit - 0.5).max()), 6) for unit in stem} == {0.5}
    with pytest.raises(ValueError, match="a block from 1 to 1; got 2"):
        token_units(params, 1)
    params["MixerBlock_0"]["token_mixing"]["Dense_0"]["kernel"] = kernel[:8]
    with pytest.raises(ValueError, match="a square grid of tokens; got 8 tokens"):
        token_units(params, 0)


def test_the_script_draws_a_mixer_and_refuses_others(tmp_path, call):
    def draw(weights: str, output: str) -> None:
        golden = ROOT / "tests" / "golden" / weights
        call("draw_weights.py", f"--weights={golden}", f"--output={tmp_path / output}")

    draw("mixer_tiny.npz", "figures")
    names = ("all_token_units", "stem", "token_units")
    files = [f"{name}.{suffix}" for name in names for suffix in ("pdf", "png")]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == files
    for name in names:
        picture = np.asarray(Image.open(tmp_path / "figures" / f"{name}.png").convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    with pytest.raises(ValueError, match="Expected weights of a Mixer"):
        draw("vit_tiny.npz", "none")
    assert not (tmp_path / "none").exists()
