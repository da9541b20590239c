"""Checksums: the definition, every single bit, what plain sums miss, independence of sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer.checkpoint.checksum import array_checksums, compile_checksums, json_checksum
from mixer.sharding import create_mesh, replicated, state_sharding

RNG = np.random.default_rng(0)
DTYPES = ["float32", "bfloat16", "float16", "int32", "uint8"]


def random_bits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Returns an array of random bits: NaNs, infinities and denormals among them."""
    dtype = jnp.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(RNG.bytes(count), dtype).reshape(shape)


def checksum(array) -> str:
    return array_checksums({"a": array})["a"]


def reference_checksum(array: np.ndarray) -> str:
    """The definition, in Python's integers."""

    def mix(x: int) -> int:
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    first = second = 0
    unsigned = array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
    for index, bits in enumerate(unsigned.tolist()):
        key = mix(index + 1)
        first += mix(bits ^ key)
        second += mix(bits ^ key) * (key | 1)
    return f"{first % 2**32:08x}{second % 2**32:08x}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 2)])
def test_the_checksum_is_the_one_defined(dtype, shape):
    array = random_bits(shape, dtype)
    assert checksum(array) == reference_checksum(array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_changes_both_words(dtype):
    array = random_bits((6, 5), dtype)
    whole = checksum(array)
    words = array.view(f"uint{8 * array.dtype.itemsize}")
    flips = 0
    for index in np.ndindex(array.shape):
        for bit in range(8 * array.dtype.itemsize):
            flipped = words.copy()
            flipped[index] ^= 1 << bit
            found = checksum(flipped.view(array.dtype))
            assert found[:8] != whole[:8]
            assert found[8:] != whole[8:]
            flips += 1
    assert flips == 30 * 8 * array.dtype.itemsize


def test_what_a_weighted_sum_of_the_bits_would_miss_is_noticed():
    array = RNG.normal(size=(40, 50)).astype(np.float32)
    array[3, 4] = -array[7, 8]
    found = {checksum(array)}
    swapped = array.copy()
    swapped[3, 4], swapped[7, 8] = array[7, 8], array[3, 4]  # their bits differ by 2^31
    two_signs = array.copy()
    two_signs[[1, 2]] *= -1  # each changes a sum by 2^31 times its weight: 0 in pairs
    others = [array[::-1], array[:, ::-1], np.roll(array, 1, 0), np.roll(array, 1, 1), array * 0]
    for other in [swapped, two_signs, *others]:
        found.add(checksum(other))
    assert len(found) == 8


def test_the_layout_on_devices_does_not_matter():
    tree = {
        "kernel": random_bits((48, 16), "float32"),
        "half": random_bits((16, 8), "bfloat16"),
        "bias": random_bits((16,), "float32"),
        "count": np.int32(7),
    }
    expected = {name: reference_checksum(np.asarray(leaf)) for name, leaf in tree.items()}
    assert array_checksums(tree) == expected
    devices = jax.devices()
    for mesh in (create_mesh(devices[:1]), create_mesh(devices[:4]), create_mesh(fsdp=8, data=1)):
        for shardings in (state_sharding(mesh, tree), replicated(mesh)):
            assert array_checksums(jax.device_put(tree, shardings)) == expected
    assert array_checksums(jax.device_put(tree, state_sharding(create_mesh(fsdp=2), tree))) == (
        expected
    )


def test_the_checksum_of_json_does_not_depend_on_the_order_of_keys():
    value = {"b": [1, 2.5, "x"], "a": {"d": None, "c": True}}
    assert json_checksum(value) == json_checksum({"a": {"c": True, "d": None}, "b": [1, 2.5, "x"]})
    assert json_checksum(value) != json_checksum({**value, "b": [1, 2.5000000000000004, "x"]})
    # SHA-256 of the text {"a": 1}
    assert json_checksum({"a": 1}).startswith("f9d86028c6e0d64e")


def test_what_is_compiled_beforehand_is_not_compiled_again(caplog):
    mesh = create_mesh(fsdp=8, data=1)
    tree = {"kernel": random_bits((56, 24), "float32"), "bias": random_bits((56,), "bfloat16")}
    tree = jax.device_put(tree, state_sharding(mesh, tree))
    compile_checksums(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
    )
    with jax.log_compiles():
        array_checksums(tree)
        assert "Compiling" not in caplog.text
        array_checksums({"kernel": tree["kernel"][1:]})
        assert "Compiling jit(_words)" in caplog.text
