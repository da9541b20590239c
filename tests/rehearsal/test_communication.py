"""How the text of a program is read."""

import jax
import pytest

from mixer.rehearsal.communication import count_collectives, count_communication, mib_sent

ARGUMENTS = {"image_size": 8, "batch_per_device": 4}


@pytest.fixture
def one_block(tiny_mixer):
    return tiny_mixer.clone(num_blocks=1, dropout_rate=0.0)


def test_collectives_are_counted_with_their_bytes():
    program = """
  %all-reduce.1 = (f32[768]{0:T(1024)}, bf16[2,3]{1,0}) all-reduce(%a, %b), channel_id=1
  ROOT %ag = bf16[1024,1024]{1,0} all-gather(%c), dimensions={0}
  %ag2 = bf16[1024,1024]{1,0} all-gather-start(%c), dimensions={0}
  %x = f32[4]{0} fusion(%all-reduce.1), kind=kLoop
"""
    found = count_collectives(program)
    assert found.keys() == {"all-reduce", "all-gather"}
    assert found["all-reduce"] == {"count": 1, "mib": (768 * 4 + 6 * 2) / 2**20}
    assert found["all-gather"] == {"count": 2, "mib": 4.0}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        # Of an array of 4 MiB, each of 4 devices ...
        ("all-reduce", 6.0),  # ... passes on 3 parts of 1 MiB, twice
        ("all-gather", 3.0),
        ("all-to-all", 3.0),
        ("collective-permute", 4.0),
        ("reduce-scatter", 12.0),  # 4 MiB is the part that comes out
    ],
)
def test_what_a_ring_sends(name, sent):
    assert mib_sent({name: {"count": 1, "mib": 4.0}}, 4) == sent


def test_one_device_sends_nothing():
    assert mib_sent({"all-reduce": {"count": 1, "mib": 4.0}}, 1) == 0.0


def test_a_step_sends_the_gradient_the_loss_and_an_image(one_block, monkeypatch):
    # Outside of TPUs the compiler gathers what the layout is asked of: see the next test.
    monkeypatch.setattr("mixer.models.mlp.with_layout_constraint", lambda x, layout: x)
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
