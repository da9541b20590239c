"""How the text of a program is read."""

import jax
import pytest

from mixer import sharding
from mixer.batch import abstract_batch
from mixer.benchmark.workloads import RECIPE_STEP, training_step
from mixer.rehearsal.communication import (
    count_collectives,
    count_communication,
    mib_between_slices,
    mib_sent,
)

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


def test_the_operand_and_the_result_of_a_started_collective_are_not_both_counted():
    program = """
  %p = (bf16[16,3]{1,0:S(1)}, bf16[16,3]{1,0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), a
  %g = (f32[4]{0}, f32[16]{0}) all-gather-start(%y), dimensions={0}
  %r = (f32[4]{0}, f32[16]{0}) all-reduce-start(%y, %z), to_apply=%add
"""  # noqa: E501
    found = {name: entry["mib"] * 2**20 for name, entry in count_collectives(program).items()}
    assert found == {"collective-permute": 96, "all-gather": 64, "all-reduce": 80}


# Four devices in two slices: 0 and 1, 2 and 3; a result of one MiB.
@pytest.mark.parametrize(
    ("collective", "sent"),
    [
        ("all-reduce(%x), replica_groups={{0,1},{2,3}}", 0),
        ("all-reduce(%x), replica_groups={{0,2},{1,3}}", 2),  # half of it twice, for both pairs
        ("all-reduce(%x), replica_groups={}", 1),  # combined inside the slice first
        ("all-reduce(%x), replica_groups=[2,2]<=[4]", 0),
        ("all-reduce(%x), replica_groups=[2,2]<=[2,2]T(1,0)", 2),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2] {'b'}, to_apply=%add", 0),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2] {'a'}, to_apply=%add", 2),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2] {'a','b'}, to_apply=%add", 1),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", 2),
        ("all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}", 0.5),
        ("reduce-scatter(%x), replica_groups=[1,4]<=[4], dimensions={0}", 2),
        ("all-to-all(%x), replica_groups=[1,4]<=[4], dimensions={0}", 1),
        ("collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", 1),
    ],
)
def test_what_a_slice_sends_to_the_other(collective, sent):
    program = f"  %y = f32[512,512]{{1,0}} {collective}"
    assert mib_between_slices(program, [0, 0, 1, 1]) == sent
    assert mib_between_slices(program, [5] * 4) == 0


# Sixteen devices in four slices; on each device a part of one MiB.
@pytest.mark.parametrize(
    ("kind", "targets", "sent"),
    [
        ("ALL_REDUCE", '"{1,2,3,4}x{0:3}"', 6),  # by 4 devices, 3/4 of it twice
        ("ALL_GATHER", '"{1,2,3,4}x{0:3}"', 12),  # by 4 devices to 3 slices
        ("ONE_TO_ONE", "{{100002->200000},{200002->300000},{300002->400000}}", 0.75),
    ],
)
def test_what_the_hosts_of_a_slice_send_to_others(kind, targets, sent):
    def transfer(kind: str) -> str:
        return (
            "  %send.2 = (bf16[512,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %after), "
            "channel_id=6, is_host_transfer=true, frontend_attributes={"
            f'_xla_megascale_target={targets},_xla_megascale_transfer_type="{kind}"}}'
        )

    slices = [device // 4 for device in range(16)]
    assert mib_between_slices(transfer(kind), slices) == sent
    in_other_order = "is_host_transfer=true, x={_xla_megascale_transfer_type=" + f'"{kind}"'
    other = transfer(kind).partition("is_host")[0] + in_other_order
    other += f",_xla_megascale_target={targets}"
    assert mib_between_slices(other + "}", slices) == sent
    with pytest.raises(ValueError, match="Expected a transfer between slices; got '%send"):
        mib_between_slices(other.partition(",_xla")[0], slices)
    with pytest.raises(ValueError, match="Expected a transfer between slices of .*; got NEW"):
        mib_between_slices(transfer("NEW"), slices)


def test_groups_that_cannot_be_read_are_no_zero():
    with pytest.raises(ValueError, match="Expected the replica_groups of a collective; got '%x"):
        mib_between_slices("  %y = f32[2]{0} all-reduce(%x), replica_groups=new", [0, 1])


def test_between_slices_goes_the_gradient_alone(one_block, monkeypatch):
    """The state is divided inside a slice, so that only its part of the gradient goes across."""
    monkeypatch.setattr("mixer.models.mlp.platform_dependent", lambda y, tpu, default: tpu(y))
    monkeypatch.setattr(sharding, "slice_of", lambda device: device.id // 4)
    mesh = sharding.create_mesh(data=1, fsdp=-1)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    step, state, _ = training_step(one_block, image_size=8, mesh=mesh, **RECIPE_STEP)
    batch = abstract_batch(sharding.batch_sharding(mesh), 64, 8, labels_per_image=1)
    program = step.lower(state, batch).compile().as_text()
    slices = [device.id // 4 for device in mesh.devices.flat]
    gradient = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params)) / 2**20
    sent = mib_between_slices(program, slices)
    # 2 (n - 1) / n = 1 of the gradient; mixup's neighbour and the metrics are small.
    assert gradient < sent < 1.1 * gradient


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
    # On each part by itself, or the compiler would gather what the layout is asked of.
    monkeypatch.setattr("mixer.models.mlp.platform_dependent", lambda y, tpu, default: tpu(y))
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
