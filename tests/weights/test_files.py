"""Loading and saving: golden outputs, round trips, what is refused and what stays untouched."""

import os
import pathlib
import subprocess
import sys
import zipfile

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mixer.models import build_model
from mixer.weights import load_params, save_params
from mixer.weights.mixer import find
from mixer.weights.shapes import flat_shapes

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
FILES = ["mixer_tiny.npz", "mixer_tiny_legacy.npz", "timm_mixer_tiny.safetensors"]


def load_flat(path):
    return flax.traverse_util.flatten_dict(load_params(path), sep="/")


@pytest.mark.parametrize("name", FILES)
def test_golden_logits_and_pre_logits(name):
    params = load_params(GOLDEN / name)
    found = find(flat_shapes(params))
    assert found.num_tokens == 16
    is_timm = name.startswith("timm")
    model = build_model("mixer", gelu_approximate=not is_timm, **found.fields)
    io = np.load(GOLDEN / ("timm_mixer_tiny.io.npz" if is_timm else "mixer_tiny.io.npz"))
    logits = model.apply({"params": params}, io["images"])
    pre_logits = model.clone(num_classes=0).apply({"params": params}, io["images"])
    np.testing.assert_allclose(logits, io["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pre_logits, io["pre_logits"], rtol=0, atol=1e-5)
    assert np.ptp(io["logits"]) > 0.1


def test_the_older_naming_gives_the_same_bits(assert_same_bits):
    older = load_flat(GOLDEN / "mixer_tiny_legacy.npz")
    assert_same_bits(older, load_flat(GOLDEN / "mixer_tiny.npz"))
    assert_same_bits(older, dict(np.load(GOLDEN / "mixer_tiny.npz")))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("between", [".npz", ".safetensors"])
def test_round_trips_keep_names_and_bits(name, between, tmp_path, assert_same_bits):
    source, middle = GOLDEN / name, tmp_path / f"middle{between}"
    save_params(middle, load_params(source))
    end = tmp_path / f"end{source.suffix}"
    save_params(end, load_params(middle))
    assert_same_bits(load_flat(end), load_flat(source))
    if name == "mixer_tiny.npz":
        assert_same_bits(dict(np.load(end)), dict(np.load(source)))
    if source.suffix == ".safetensors":
        load_file = safetensors.numpy.load_file
        assert_same_bits(load_file(end), load_file(source))
    assert sorted(os.listdir(tmp_path)) == sorted({middle.name, end.name})


def test_special_values_keep_their_bits(tmp_path, arrays, assert_same_bits):
    bits = [0x7F7FFFFF, 0xFF7FFFFF, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x00000000]
    arrays["head/bias"] = np.array(bits, np.uint32).view(np.float32)
    for suffix in (".npz", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        save_params(path, flax.traverse_util.unflatten_dict(arrays, sep="/"))
        assert_same_bits(load_flat(path), arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])  # the last in float32
def test_what_is_not_finite_is_neither_saved_nor_loaded(value, tmp_path, arrays):
    arrays["head/bias"] = arrays["head/bias"].astype(np.float64)
    arrays["head/bias"][[1, 4]] = value
    message = (
        r"Expected finite weights; got NaN or infinity in 1 of 42 arrays: {} \(2 of 7\)\. Use "
    )
    nested = flax.traverse_util.unflatten_dict(arrays, sep="/")
    with pytest.raises(ValueError, match=message.format("head/bias")):
        save_params(tmp_path / "w.npz", nested)
    assert not os.listdir(tmp_path)
    np.savez(tmp_path / "w.npz", **{f"params/{name}": array for name, array in arrays.items()})
    with pytest.raises(ValueError, match=f"Cannot load .*{message.format('params/head/bias')}"):
        load_params(tmp_path / "w.npz")
    tensors = safetensors.numpy.load_file(GOLDEN / "timm_mixer_tiny.safetensors")
    tensors["head.bias"] = arrays["head/bias"]
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"Cannot load .*{message.format('head.bias')}"):
        load_params(tmp_path / "w.safetensors")


def test_float16_that_overflowed_is_named(tmp_path, arrays):
    arrays["stem/kernel"][0, 0, 0, :3] = (70_000, -1e6, 65_504)
    with np.errstate(over="ignore"):
        half = {name: array.astype(np.float16) for name, array in arrays.items()}
    np.savez(tmp_path / "w.npz", **half)
    with pytest.raises(ValueError, match=r"stem/kernel \(2 of .*In float16, .* export .* float32"):
        load_params(tmp_path / "w.npz")


def test_arrays_of_jax_are_saved_in_float32(tmp_path, arrays):
    params = flax.traverse_util.unflatten_dict(arrays, sep="/")
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), params)
    path = tmp_path / "weights.npz"
    save_params(str(path), params)
    stored = dict(np.load(path))
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float32)}
    expected = np.asarray(params["stem"]["kernel"]).astype(np.float32)
    np.testing.assert_array_equal(stored["stem/kernel"], expected)


def test_an_existing_file_is_replaced_only_on_demand_and_only_by_a_complete_one(
    tmp_path, monkeypatch
):
    params = load_params(GOLDEN / "mixer_tiny.npz")
    path = tmp_path / "weights.npz"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match=f"Expected a new file; {path} exists.*overwrite=True"):
        save_params(path, params)

    def fail(file, **arrays):
        file.write(b"half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        with pytest.raises(OSError, match="No space left"):
            save_params(path, params, overwrite=True)
    assert path.read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["weights.npz"]
    save_params(path, params, overwrite=True)
    assert load_flat(path).keys() == load_flat(GOLDEN / "mixer_tiny.npz").keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head/bias": None}, "1 missing, 0 extra, 0 with the wrong shape"),
        ({"Dropout_0/rate": np.zeros(1)}, "0 missing, 1 extra"),
        ({"stem/bias": np.zeros(25)}, "1 with the wrong shape"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(change, message, tmp_path, arrays):
    changed = {name: array for name, array in (arrays | change).items() if array is not None}
    with pytest.raises(ValueError, match=message):
        save_params(tmp_path / "w.npz", flax.traverse_util.unflatten_dict(changed, sep="/"))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pkl", r"suffix \.npz or \.safetensors; got .*weights\.pkl"),
        ("weights", r"suffix \.npz or \.safetensors"),
        ("nowhere/weights.npz", "Expected .*nowhere to be a folder; got none. Create it first"),
        ("gs://bucket/weights.npz", "Expected a local weights file; got gs://bucket/weights.npz"),
    ],
)
def test_places_that_cannot_be_written(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        save_params(name, load_params(GOLDEN / "mixer_tiny.npz"))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pkl", r"suffix \.npz or \.safetensors; got .*weights\.pkl"),
        ("missing.npz", "Expected a weights file at missing.npz; got nothing. Check the path"),
        ("missing.safetensors", "at missing.safetensors; got nothing"),
        ("folder.npz", "at folder.npz; got a folder"),
        ("folder.safetensors", "at folder.safetensors; got a folder"),
        ("gs://bucket/weights.npz", "Copy or download it first"),
    ],
)
def test_places_without_a_file(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for suffix in (".npz", ".safetensors"):
        (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / "weights.pkl").write_bytes((GOLDEN / "mixer_tiny.npz").read_bytes())
    with pytest.raises(ValueError, match=message):
        load_params(name)


def test_a_suffix_does_not_make_a_format(tmp_path):
    for source, suffix in zip(FILES[::2], (".safetensors", ".npz"), strict=True):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes((GOLDEN / source).read_bytes())
        with pytest.raises(ValueError, match=f"Cannot load {path}. Expected .* got something else"):
            load_params(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\n  <?xml version='1.0'?><Error>NoSuchKey</Error>", "a web page or XML"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n", "a pickle"),
        (b"Please fill in the form first.\n", "text"),
        (b"\x1f\x8b\x08\x00", "gzip"),
    ],
)
def test_another_file_with_the_right_suffix_is_named(content, kind, tmp_path):
    for name in ("w.npz", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"^Cannot load .*{name}. Expected .*") as error:
            load_params(tmp_path / name)
        assert f"This file is {kind}" in str(error.value) or kind in str(error.value)


def test_the_archive_of_pytorch_is_no_npz(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}q\x00.")
    with pytest.raises(ValueError, match=r"Expected unique members.*\nThis file is a pickle of Py"):
        load_params(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w.pth", r"by its suffix a pickle.*torch.load\('w.pth'.*'w.safetensors'\)"),
        ("pytorch_model.bin", "by its suffix a pickle, which can run any code"),
        ("w.pt", "by its suffix a pickle"),
        ("model-00001-of-00003.safetensors", r"one of several parts .*\n  python -c .*/model-\*"),
        ("model.safetensors.index.json", r"one of several parts .*\n  python -c .*/model-\*"),
        ("w.h5", "Other formats are not supported"),
    ],
)
def test_files_of_other_libraries_are_explained(name, message, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path / name)


def test_the_command_that_joins_parts_joins_them(tmp_path):
    tensors = safetensors.numpy.load_file(GOLDEN / "timm_mixer_tiny.safetensors")
    for part in range(3):
        some = dict(list(tensors.items())[part::3])
        safetensors.numpy.save_file(some, tmp_path / f"model-0000{part + 1}-of-00003.safetensors")
    with pytest.raises(ValueError, match="one of several parts") as error:
        load_params(tmp_path / "model-00001-of-00003.safetensors")
    command = str(error.value).splitlines()[-1].strip()
    subprocess.run(
        command.replace("python", sys.executable, 1), shell=True, check=True, timeout=300
    )
    joined = load_flat(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(joined["head/kernel"], tensors["head.weight"].T)
