"""Scaling: exponents of known laws."""

import pytest

from mixer.benchmark.scaling import fitted_exponent, token_scaling


def test_the_exponent_of_a_power_law_is_found():
    sizes = [196, 784, 1764]
    assert fitted_exponent(sizes, [3e-4 * size**1.07 for size in sizes]) == pytest.approx(1.07)
    assert fitted_exponent(sizes, [5.0, 5.0, 5.0]) == pytest.approx(0.0)


def test_tokens_against_time_and_flops():
    def result(tokens, speed):
        best = {"images_per_s_per_core": {"median": speed}} if speed else None
        return {"tokens": tokens, "gflops_per_image": 2.0 * tokens, "best": best}

    # Four times the tokens at an eighth of the speed: 8 = 4 ** 1.5.
    scaling = token_scaling([result(100, 80.0), result(400, 10.0), result(900, None)])
    assert scaling["tokens"] == [100, 400]
    assert scaling["time_exponent"] == pytest.approx(1.5)
    assert scaling["flops_exponent"] == pytest.approx(1.0)
    assert token_scaling([result(100, 80.0), result(400, None)]) is None
