"""The released naming and the older one, with all that files are known to do."""

import flax
import ml_dtypes
import numpy as np
import pytest

from mixer.weights import load_params
from mixer.weights.files import read_file


def load_flat(path):
    return flax.traverse_util.flatten_dict(load_params(path), sep="/")


@pytest.fixture
def check_loads_as_the_golden_file(write_npz, arrays, assert_same_bits):
    def check(changed, description):
        path = write_npz(changed)
        assert_same_bits(load_flat(path), arrays)
        assert read_file(path).description == description

    return check


def rename(arrays, *replacements):
    for old, new in replacements:
        assert any(old in name for name in arrays)
        arrays = {name.replace(old, new): array for name, array in arrays.items()}
    return arrays


def test_the_order_counts_not_the_number(older_arrays, check_loads_as_the_golden_file):
    older = rename(
        older_arrays,
        ("LayerNorm_1", "LayerNorm_10"),
        ("LayerNorm_0", "LayerNorm_9"),
        ("token_mixing_phase_0", "token_mixing_phase_1"),
        ("channel_mixing_phase_0", "channel_mixing_phase_4"),
    )
    # In the second block otherwise than in the first, and the file in any order.
    older = {name.replace("1/LayerNorm_9", "1/LayerNorm_0"): older[name] for name in sorted(older)}
    check_loads_as_the_golden_file(older, ".npz in the older naming")


def test_blocks_come_in_natural_order(write_npz, arrays, older_arrays):
    older = {name: array for name, array in older_arrays.items() if "block" not in name}
    for name, array in older_arrays.items():
        if "encoderblock_0" in name:
            for number in range(12):
                older[name.replace("block_0", f"block_{number}")] = array + number
    loaded = load_flat(write_npz({name: older[name] for name in sorted(older)}))
    assert len(loaded) == 6 + 12 * 12
    for name, array in loaded.items():
        block, _, inner = name.partition("/")
        if block.startswith("MixerBlock_"):
            number = int(block.removeprefix("MixerBlock_"))
            expected = arrays[f"MixerBlock_0/{inner}"] + number
            np.testing.assert_array_equal(array, expected, err_msg=name)


def test_dimensions_of_size_1_are_kept_where_the_model_has_them(write_npz):
    # One token, tokens MLP 1, channels MLP 5, hidden 3: shapes (1, 1), (1,), (3, 5), (5, 3).
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    block = "Mixer/encoderblock_0"
    older = {
        "embedding/kernel": array(1, 1, 3, 3),
        "embedding/bias": array(3),
        **{f"{block}/LayerNorm_{n}/{leaf}": array(3) for n in (0, 1) for leaf in ("scale", "bias")},
        f"{block}/token_mixing_phase_0/kernel1": array(1, 1, 1),
        f"{block}/token_mixing_phase_0/bias1": array(1, 1),
        f"{block}/token_mixing_phase_0/kernel2": array(1, 1, 1),
        f"{block}/token_mixing_phase_0/bias2": array(1, 1, 1),
        f"{block}/channel_mixing_phase_0/kernel1": array(3, 1, 5),
        f"{block}/channel_mixing_phase_0/bias1": array(5, 1),
        f"{block}/channel_mixing_phase_0/kernel2": array(5, 3, 1),
        f"{block}/channel_mixing_phase_0/bias2": array(1, 3),
        "Mixer/encoder_norm/scale": array(3),
        "Mixer/encoder_norm/bias": array(3),
        "head/kernel": array(3, 1),
        "head/bias": array(1),
    }
    loaded = load_flat(write_npz(older))
    assert loaded["MixerBlock_0/token_mixing/Dense_0/kernel"].shape == (1, 1)
    assert loaded["MixerBlock_0/token_mixing/Dense_1/bias"].shape == (1,)
    assert loaded["head/kernel"].shape == (3, 1)
    assert loaded["stem/kernel"].shape == (1, 1, 3, 3)
    np.testing.assert_array_equal(
        loaded["MixerBlock_0/channel_mixing/Dense_0/kernel"],
        older[f"{block}/channel_mixing_phase_0/kernel1"][:, 0],
    )
    np.testing.assert_array_equal(
        loaded["MixerBlock_0/channel_mixing/Dense_1/kernel"],
        older[f"{block}/channel_mixing_phase_0/kernel2"][:, :, 0],
    )


@pytest.mark.parametrize("prefix", ["params/", "opt/target/", "optimizer/target/", "target/"])
@pytest.mark.parametrize("older", [False, True])
def test_parameters_among_other_things(
    prefix, older, arrays, older_arrays, check_loads_as_the_golden_file
):
    inner = older_arrays if older else arrays
    naming = "older" if older else "released"
    check_loads_as_the_golden_file(
        {
            **{prefix + name: array for name, array in inner.items()},
            "opt/state/step": np.int64(7),
            "opt/state/stem/kernel": np.zeros(3, np.float32),
        },
        f".npz in the {naming} naming, below {prefix}",
    )


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "bfloat16", "V2", "fortran"])
def test_other_floats_become_float32(dtype, write_npz, arrays):
    if dtype == "fortran":
        stored = {name: np.asfortranarray(array) for name, array in arrays.items()}
    elif dtype in ("bfloat16", "V2"):
        stored = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    else:
        stored = {name: array.astype(dtype) for name, array in arrays.items()}
    expected = {name: array.astype(np.float32) for name, array in stored.items()}
    if dtype == "V2":  # as NumPy reads and writes bfloat16 when it does not know it
        stored = {name: array.view("V2") for name, array in stored.items()}
    loaded = load_flat(write_npz(stored))
    for name, array in expected.items():
        assert loaded[name].dtype == np.float32
        assert loaded[name].flags.c_contiguous
        assert loaded[name].flags.writeable
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)


@pytest.mark.parametrize("older", [False, True])
def test_a_file_without_a_head(older, write_npz, arrays, older_arrays):
    inner = older_arrays if older else arrays
    loaded = load_flat(write_npz({k: v for k, v in inner.items() if not k.startswith("head")}))
    assert loaded.keys() == {name for name in arrays if not name.startswith("head")}


def test_a_missing_block_is_not_closed_up(write_npz, arrays, older_arrays):
    message = "12 missing, 12 extra, 0 with the wrong shape"
    for prefix, inner in (("MixerBlock_1", arrays), ("Mixer/encoderblock_1", older_arrays)):
        path = write_npz({name: array for name, array in inner.items() if prefix not in name})
        with pytest.raises(ValueError, match=message):
            load_params(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("Mixer/encoderblock_0/LayerNorm_5/scale", np.zeros(24), "0 missing, 1 extra"),
        ("Mixer/encoderblock_00/LayerNorm_0/scale", np.zeros(24), "0 missing, 1 extra"),
        ("stem/bias", np.zeros(24), "Expected one array for 'stem/bias'; got 'embedding/bias' and"),
        (
            "Mixer/encoderblock_1/channel_mixing_phase_0/kernel1",
            np.zeros((1, 40, 24)),
            r"1 with the wrong shape.\n.*Dense_0/kernel \(1, 40, 24\), expected \(24, 40\)",
        ),
    ],
)
def test_older_files_with_something_else(name, array, message, write_npz, older_arrays):
    with pytest.raises(ValueError, match=message):
        load_params(write_npz({**older_arrays, name: array.astype(np.float32)}))
