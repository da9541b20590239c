"""Mesh, rows of a process, errors."""

import jax
import numpy as np
import pytest

from mixer.sharding import batch_sharding, check_batch_size, create_mesh, local_rows, to_global


def test_the_mesh_has_all_devices_on_the_data_axis():
    mesh = create_mesh()
    assert dict(mesh.shape) == {"data": 8}


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
