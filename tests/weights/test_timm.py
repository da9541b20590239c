"""timm's weights: names, order of dimensions, types, damaged and hostile files."""

import json
import pathlib
import struct
import tracemalloc

import flax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mixer.weights import load_params, save_params
from mixer.weights.files import read_file

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@pytest.fixture
def tensors():
    return safetensors.numpy.load_file(GOLDEN / "timm_mixer_tiny.safetensors")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def with_header(header: dict | str, data: bytes) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + data


def test_each_name_and_transposition(tensors):
    params = load_params(GOLDEN / "timm_mixer_tiny.safetensors")
    block = params["MixerBlock_2"]
    for ours, theirs in (
        (params["stem"]["kernel"], tensors["stem.proj.weight"].transpose(2, 3, 1, 0)),
        (params["stem"]["bias"], tensors["stem.proj.bias"]),
        (block["LayerNorm_0"]["scale"], tensors["blocks.2.norm1.weight"]),
        (block["LayerNorm_1"]["bias"], tensors["blocks.2.norm2.bias"]),
        (block["token_mixing"]["Dense_0"]["kernel"], tensors["blocks.2.mlp_tokens.fc1.weight"].T),
        (block["token_mixing"]["Dense_1"]["bias"], tensors["blocks.2.mlp_tokens.fc2.bias"]),
        (
            block["channel_mixing"]["Dense_1"]["kernel"],
            tensors["blocks.2.mlp_channels.fc2.weight"].T,
        ),
        (params["pre_head_layer_norm"]["scale"], tensors["norm.weight"]),
        (params["head"]["kernel"], tensors["head.weight"].T),
        (params["head"]["bias"], tensors["head.bias"]),
    ):
        np.testing.assert_array_equal(ours, theirs)
    for leaf in flax.traverse_util.flatten_dict(params).values():
        assert leaf.dtype == np.float32
        assert leaf.flags.c_contiguous
        assert leaf.flags.writeable


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_become_float32(dtype, tensors, path):
    stored = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(stored, path)
    params = load_params(path)
    assert params["head"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(
        params["head"]["kernel"], stored["head.weight"].T.astype(np.float32)
    )


def test_a_file_without_a_head(tensors, path, tmp_path, assert_same_bits):
    headless = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    safetensors.numpy.save_file(headless, path)
    params = load_params(path)
    assert "head" not in params
    again = tmp_path / "again.safetensors"
    save_params(again, params)
    assert_same_bits(safetensors.numpy.load_file(again), headless)


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.", "module.model."])
def test_what_wrappers_put_before_all_names_is_left_out(prefix, tensors, path, assert_same_bits):
    plain = load_params(GOLDEN / "timm_mixer_tiny.safetensors")
    safetensors.numpy.save_file({prefix + name: t for name, t in tensors.items()}, path)
    file = read_file(path)
    assert file.description == f".safetensors in timm's naming, below {prefix}"
    assert_same_bits(*(flax.traverse_util.flatten_dict(p, sep="/") for p in (file.params, plain)))


def test_two_models_in_one_file_are_not_mixed(tensors, path):
    twice = {f"{prefix}.{name}": t for name, t in tensors.items() for prefix in ("model", "ema")}
    safetensors.numpy.save_file(twice, path)
    with pytest.raises(
        ValueError, match="tensors of one model; got some below ema.; model. and others"
    ):
        load_params(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm.weight": None},
            "1 missing, 0 extra, 0 with the wrong shape.\n  missing: norm.weight\n",
        ),
        (
            {"cls_token": np.zeros((1, 1, 24))},
            r"0 missing, 1 extra.*\n  extra: cls_token \(1, 1, 2",
        ),
        ({"blocks.00.norm1.weight": np.zeros(24)}, "0 missing, 1 extra"),
        (
            {"blocks.1.mlp_tokens.fc1.weight": np.zeros((16, 12))},
            r"blocks.1.mlp_tokens.fc1.weight \(16, 12\), expected \(12, 16\)",
        ),
        (
            {"head.bias": np.zeros(7, np.int64)},
            "Expected tensors of type F64 or .*; head.bias is I64",
        ),
    ],
)
def test_what_is_not_exactly_a_mixer_is_refused(change, message, tensors, path):
    changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    safetensors.numpy.save_file(changed, path)
    with pytest.raises(ValueError, match=message) as error:
        load_params(path)
    assert str(error.value).startswith(f"Cannot load {path}. Expected ")


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": b"",
    "text": b"Hello, this is not what you expect.\n" * 9,
    "header of 10**18 bytes": struct.pack("<Q", 10**18) + b"{}",
    "header longer than the file": struct.pack("<Q", 5000) + b"{}",
    "header is no JSON": with_header("{'a': 1}", b""),
    "header deeply nested": with_header("[" * 100_000, b""),
    "offsets overlap": with_header({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
    "offsets beyond the file": with_header({"a": F32 | {"data_offsets": [8, 16]}}, bytes(8)),
    "offsets do not fit the shape": with_header({"a": F32 | {"shape": [10**12]}}, bytes(8)),
    "claims 4 TB": with_header(
        {"a": F32 | {"shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, bytes(8)
    ),
    "shape overflows": with_header({"a": F32 | {"shape": [2**62, 2**62]}}, bytes(8)),
    "bytes that belong to nothing": with_header({"a": F32}, bytes(9)),
    "unknown type": with_header({"a": F32 | {"dtype": "PICKLE"}}, bytes(8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_fill_no_memory(kind, path):
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"Expected a \.safetensors file; got .*again"
        ) as error:
            load_params(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_truncated_file_is_refused(path):
    content = (GOLDEN / "timm_mixer_tiny.safetensors").read_bytes()
    for length in (4, 100, 5000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="or an incomplete one"):
            load_params(path)
