"""Mesh, rows of a process, errors."""

import jax
import numpy as np
import pytest

from mixer import sharding
from mixer.sharding import (
    batch_sharding,
    check_batch_size,
    create_mesh,
    local_rows,
    state_sharding,
    to_global,
)


def test_the_mesh_has_all_devices_on_the_data_axis():
    mesh = create_mesh()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1}


def test_one_process_feeds_all_rows_and_each_device_gets_its_part():
    sharding = batch_sharding(create_mesh())
    np.testing.assert_array_equal(local_rows(sharding, 16), np.arange(16))
    batch = to_global({"labels": np.arange(16)}, sharding)
    parts = {shard.device.id: shard.data.tolist() for shard in batch["labels"].addressable_shards}
    assert parts == {device: [2 * device, 2 * device + 1] for device in range(8)}


@pytest.mark.parametrize(("size", "fits"), [(20, "16 or 24"), (4, "8"), (0, "8"), (-8, "8")])
def test_a_batch_that_does_not_divide_is_refused(size, fits):
    with pytest.raises(ValueError, match=rf"by the 8 devices; got {size}. .*: {fits}\."):
        check_batch_size(size, create_mesh())
    check_batch_size(24, create_mesh())
    assert jax.device_count() == 8
    with pytest.raises(ValueError, match=r"8 devices x 4 accumulation_steps; got 48.*: 32 or 64\."):
        check_batch_size(48, create_mesh(), 4)


@pytest.mark.parametrize(
    ("sizes", "shape"), [((-1, 2), (4, 2)), ((1, -1), (1, 8)), ((2, 4), (2, 4))]
)
def test_the_axes_of_the_mesh(sizes, shape):
    mesh = create_mesh(data=sizes[0], fsdp=sizes[1])
    assert tuple(mesh.shape.values()) == shape
    # Whatever the axes, a device has the same rows of the batch.
    np.testing.assert_array_equal(local_rows(batch_sharding(mesh), 16), np.arange(16))


@pytest.mark.parametrize("sizes", [(-1, 3), (2, 2), (-1, -1), (0, 8), (-1, 16)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match=f"the 8 devices; got {sizes[0]} x {sizes[1]}"):
        create_mesh(data=sizes[0], fsdp=sizes[1])


@pytest.mark.parametrize(
    ("sizes", "shape"), [((1, -1), (2, 4)), ((-1, 1), (8, 1)), ((-1, 2), (4, 2)), ((2, 2), (4, 2))]
)
def test_slices_are_copies_along_data_and_the_state_is_divided_inside(monkeypatch, sizes, shape):
    monkeypatch.setattr(sharding, "slice_of", lambda device: device.id % 2)  # not in their order
    mesh = create_mesh(data=sizes[0], fsdp=sizes[1])
    assert tuple(mesh.shape.values()) == shape
    for row in mesh.devices:  # a row holds the whole state
        assert len({device.id % 2 for device in row}) == 1
    assert [device.id % 2 for device in mesh.devices.flat] == [0] * 4 + [1] * 4
    # Each device has other images, and each process's rows are still all of them.
    np.testing.assert_array_equal(local_rows(batch_sharding(mesh), 16), np.arange(16))


@pytest.mark.parametrize(
    ("slices", "sizes"),
    [([0] * 4 + [1] * 4, (1, 8)), ([0] * 4 + [1] * 4, (8, 1)), ([0] * 4 + [1] * 3 + [2], (-1, 1))],
)
def test_a_mesh_that_does_not_fit_a_slice_is_refused(monkeypatch, slices, sizes):
    monkeypatch.setattr(sharding, "slice_of", lambda device: slices[device.id])
    with pytest.raises(ValueError, match=r"the 4 devices of each of [23] slices; got"):
        create_mesh(data=sizes[0], fsdp=sizes[1])


def test_matrices_are_divided_along_their_longest_fitting_dimension():
    mesh = create_mesh(data=2, fsdp=4)
    leaves = {"a": (196, 384), "b": (384, 196), "c": (3, 5), "d": (384,), "e": (16, 16, 3, 768)}
    shapes = {name: np.zeros(shape) for name, shape in leaves.items()}
    specs = {name: tuple(s.spec) for name, s in state_sharding(mesh, shapes).items()}
    assert specs == {
        "a": (None, "fsdp"),
        "b": ("fsdp",),
        "c": (),
        "d": (),
        "e": (None, None, None, "fsdp"),
    }
    assert all(s.is_fully_replicated for s in state_sharding(create_mesh(), shapes).values())
