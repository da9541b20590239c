"""Scaling: exponents of known laws, and what a step sends between virtual devices."""

import jax
import pytest

from mixer.benchmark.scaling import count_communication, fitted_exponent, token_scaling

ARGUMENTS = {"image_size": 8, "batch_per_device": 4}


@pytest.fixture
def one_block(tiny_mixer):
    return tiny_mixer.clone(num_blocks=1, dropout_rate=0.0)


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


def test_a_step_sends_the_gradient_the_loss_and_an_image(one_block, monkeypatch):
    # Outside of TPUs the compiler gathers what the layout is asked of: see the next test.
    monkeypatch.setattr("mixer.models.mixer.with_layout_constraint", lambda x, layout: x)
    rows = count_communication(one_block, **ARGUMENTS, device_counts=[1, 8])
    params = jax.eval_shape(one_block.init, jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert rows[0] == {
        "num_devices": 1,
        "collectives": {},
        "sent_mib": 0.0,
        "expected_mib": 0.0,
        "ratio": None,
    }
    assert rows[1]["num_devices"] == 8
    assert rows[1]["expected_mib"] * 2**20 == 2 * 7 / 8 * gradient
    # Mixup's partner of the first row comes from the neighbour: 8 x 8 x 3 bytes and a label.
    assert rows[1]["sent_mib"] * 2**20 == 2 * 7 / 8 * (gradient + 4) + 8 * 8 * 3 + 4
    assert rows[1]["ratio"] == rows[1]["sent_mib"] / rows[1]["expected_mib"]
    assert rows[1]["collectives"]["all-reduce"]["count"] == 1


def test_no_activations_are_sent(one_block):
    (row,) = count_communication(one_block, **ARGUMENTS, device_counts=[2])
    assert "all-gather" not in row["collectives"]


def test_more_devices_than_there_are_are_refused(tiny_mixer):
    with pytest.raises(ValueError, match=r"Expected 1 to 8 devices; got 9\."):
        count_communication(tiny_mixer, **ARGUMENTS, device_counts=[9])
