"""How the text of a program is read."""

import pytest

from mixer.rehearsal.collectives import count_collectives, mib_sent


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
