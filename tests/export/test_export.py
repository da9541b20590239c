"""Exports, read by their own runtime in another process, against the models they are of."""

import contextlib
import importlib.util
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from children import run

from mixer.export import read_back, write
from mixer.export.write import write_export
from mixer.models import build_model
from mixer.models.platforms import portable
from mixer.weights.files import save_params
from mixer.weights.load import LoadedModel, load_model
from tests.models.tiny import TINY, random_params, tiny_model

MIXER = dict(num_blocks=2, patch_size=4, hidden_dim=24, tokens_mlp_dim=16, channels_mlp_dim=32)
FAMILIES = ("mixer", *TINY)
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime"))
FORMATS = (
    "stablehlo",
    pytest.param(
        "onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="needs pip install .[export]")
    ),
    "savedmodel",
)
ROOT = pathlib.Path(__file__).parent.parent.parent


def loaded_model(model: nn.Module, size: int = 32) -> LoadedModel:
    images = np.zeros((1, size, size, 3), np.float32)
    return LoadedModel(model, random_params(model, images), size, None)


def tiny(family: str, **fields: Any) -> LoadedModel:
    if family == "mixer":
        return loaded_model(build_model("mixer", num_classes=10, **MIXER, **fields))
    return loaded_model(tiny_model(family, **fields))


def run_elsewhere(path: pathlib.Path, form: str, images: np.ndarray, missing: str) -> np.ndarray:
    """Runs an export in a process in which the packages `missing` cannot be imported."""
    program = f"""
import runpy, sys
sys.path.pop(0)
sys.modules.update(dict.fromkeys({missing.split()}))
sys.argv = ["read_back.py", {form!r}, {str(path)!r}, "images.npz", "outputs.npz"]
runpy.run_path({read_back.__file__!r}, run_name="__main__")
"""
    np.savez(path.parent / "images.npz", images=images)
    subprocess.run([sys.executable, "-c", program], cwd=path.parent, check=True, timeout=600)
    return np.load(path.parent / "outputs.npz")["images"]


def images_of(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def difference(found: np.ndarray, wanted: jax.Array) -> float:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_portable_program_computes_the_same_and_has_no_branches(family):
    loaded = tiny(family)
    images = jnp.asarray(images_of(32, 2), jnp.float32) / 127.5 - 1

    def apply(images: jax.Array) -> Any:
        return loaded.model.apply({"params": loaded.params}, images)

    branched = jax.make_jaxpr(lambda images: apply(images))(images)
    with portable():
        plain = jax.make_jaxpr(lambda images: apply(images))(images)
    assert ("platform_index" in str(branched)) == (family in ("mixer", "vit"))
    assert "platform_index" not in str(plain)
    assert "layout" not in str(plain)
    if family in ("mixer", "vit"):
        found = jax.jit(jax.extend.core.jaxpr_as_fun(plain))(images)[0]
        assert difference(np.asarray(found), jax.jit(apply)(images)) < 1e-6


def test_jax_alone_runs_stablehlo_for_three_platforms(tmp_path):
    loaded = tiny("mixer", dropout_rate=0.1, remat="block")
    export = write_export(loaded, tmp_path / "mixer.stablehlo", "stablehlo")
    assert export.check.difference <= 1e-6
    assert 0 < export.check.seconds < 60
    assert 0 < export.check.model_seconds < 60
    assert export.num_bytes == export.path.stat().st_size
    assert jax.export.deserialize(bytearray(export.path.read_bytes())).platforms == (
        "cpu",
        "cuda",
        "tpu",
    )
    images = images_of(32, 5) / np.float32(127.5) - np.float32(1)
    found = run_elsewhere(export.path, "stablehlo", images, "flax mixer optax tensorflow")
    wanted = jax.jit(loaded.model.apply)({"params": loaded.params}, images)
    assert difference(found, wanted) < 1e-6
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.fixture
def no_reader(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Replaces the other process: its outputs are the model's, times a factor."""

    def replace(factor: float) -> None:
        def compute(path: pathlib.Path, form: str, batches: dict[str, np.ndarray]) -> Any:
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
            return {
                name: np.asarray(exported.call(images)) * np.float32(factor)
                for name, images in batches.items()
            } | {"seconds": np.asarray(1.0)}

        monkeypatch.setattr(write, "_read_back", compute)

    return replace


@pytest.mark.parametrize(
    ("factor", "is_written"), [(1.00005, True), (1.0002, False), (np.nan, False)]
)
def test_an_export_that_computes_something_else_gets_no_name(
    factor, is_written, no_reader, tmp_path
):
    no_reader(factor)
    loaded, path = tiny("mixer"), tmp_path / "mixer.stablehlo"
    if is_written:
        write_export(loaded, path, "stablehlo", platforms=["cpu"])
    else:
        with pytest.raises(ValueError, match="Expected the stablehlo export to compute what the"):
            write_export(loaded, path, "stablehlo", platforms=["cpu"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["mixer.stablehlo"] * is_written


def test_a_damaged_export_gets_no_name(tmp_path, monkeypatch):
    whole = write.write_stablehlo

    def cut_short(program: Any, path: pathlib.Path, platforms: Any) -> None:
        whole(program, path, platforms)
        path.write_bytes(path.read_bytes()[:-1000])

    monkeypatch.setattr(write, "write_stablehlo", cut_short)
    with pytest.raises(ValueError, match="Expected the stablehlo export to be readable by its"):
        write_export(tiny("mixer"), tmp_path / "mixer.stablehlo", "stablehlo", platforms=["cpu"])
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_preprocessing_are_probabilities_of_bytes(no_reader, tmp_path):
    no_reader(1.0)
    loaded, path = tiny("mixer"), tmp_path / "mixer.stablehlo"
    write_export(loaded, path, "stablehlo", platforms=["cpu"], with_preprocessing=True)
    images = images_of(32, 4)
    found = jax.export.deserialize(bytearray(path.read_bytes())).call(images)
    logits = jax.jit(loaded.model.apply)({"params": loaded.params}, images / np.float32(127.5) - 1)
    assert difference(np.asarray(found), jax.nn.softmax(logits)) < 1e-6
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "fields", "options", "message"),
    [
        ("tflite", {}, {}, "Unknown format 'tflite'. Expected one of: onnx, savedmodel, stablehlo"),
        (
            "stablehlo",
            {},
            {"platforms": ["gpu"]},
            "Unknown platform 'gpu'. Expected one of: cpu",
        ),
        ("stablehlo", {}, {"platforms": []}, "Expected each platform once"),
        ("stablehlo", {"num_classes": 0}, {"with_preprocessing": True}, "with a head; got no head"),
        ("onnx", {"dtype": "bfloat16"}, {}, "Expected float32 activations for ONNX"),
    ],
)
def test_what_cannot_be_exported_is_refused(form, fields, options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "check_installed", lambda *arguments: None)
    model = build_model("mixer", **{"num_classes": 10, **MIXER, **fields})
    with pytest.raises(ValueError, match=message):
        write_export(loaded_model(model), tmp_path / "model", form, **options)
    assert list(tmp_path.iterdir()) == []


def test_parameters_that_no_single_file_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mixer.export.program._MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="Expected parameters of less than 2 GiB"):
        write_export(tiny("mixer"), tmp_path / "model", "stablehlo")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Install: pip install 'jax2onnx>=0.13,<0.14' onnxruntime"):
        write_export(tiny("mixer"), tmp_path / "model", "onnx")


def test_what_exists_is_kept(tmp_path):
    (tmp_path / "model").write_text("mine")
    for path in (tmp_path / "model", tmp_path / "nowhere" / "model"):
        with pytest.raises(ValueError, match="Expected a new name in an existing folder"):
            write_export(tiny("mixer"), path, "stablehlo")
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "with_preprocessing"), [("float32", False), ("float32", True), ("bfloat16", False)]
)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", FORMATS)
def test_every_family_in_every_format(form, family, dtype, with_preprocessing, tmp_path):
    if form == "onnx" and dtype == "bfloat16":
        pytest.skip("refused: see test_what_cannot_be_exported_is_refused")
    check_everywhere(tiny(family, dtype=dtype), form, with_preprocessing, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("named", ["mixer S/16", "vit S/16", "bit R50x1", "gmlp S/16"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_real_size_of_every_family(form, named, tmp_path):
    model = build_model(*named.split(), num_classes=1000)
    check_everywhere(loaded_model(model, 224), form, False, tmp_path)


def check_everywhere(
    loaded: LoadedModel, form: str, with_preprocessing: bool, folder: pathlib.Path
) -> None:
    """Exports weights with the script and compares batches of 1, 3 and 4 images."""
    save_params(folder / "weights.npz", loaded.params)
    options = dict(image_size=loaded.image_size, dtype=jnp.dtype(loaded.model.dtype).name)
    flags = [f"--{name}={value}" for name, value in options.items()]
    flags += ["--with_preprocessing"] * with_preprocessing
    command = ["scripts/export.py", f"--weights={folder}/weights.npz", f"--format={form}"]
    done = run([sys.executable, *command, *flags, folder / "model"], cwd=ROOT, limit=1200)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    loaded = load_model(f"{folder}/weights.npz", **options)

    def apply(images: np.ndarray) -> Any:
        if with_preprocessing:
            images = images / np.float32(127.5) - 1
        outputs = loaded.model.apply({"params": loaded.params}, images)
        return jax.nn.softmax(outputs) if with_preprocessing else outputs

    is_exact = options["dtype"] == "float32"
    model = loaded.model.clone(dtype=jnp.float32)
    differences, roundings = [], []
    missing = "flax mixer" + " tensorflow" * (form != "savedmodel") + " jax" * (form != "stablehlo")
    for count in (1, 3, 4):
        images = images_of(loaded.image_size, count)
        if not with_preprocessing:
            images = images / np.float32(127.5) - np.float32(1)
        found = run_elsewhere(folder / "model", form, images, missing)
        with contextlib.nullcontext() if is_exact else portable():
            wanted = jax.jit(lambda images: apply(images))(images)
        differences.append(difference(found, wanted))
        exact = model.apply({"params": loaded.params}, images)
        roundings.append(difference(np.asarray(wanted), exact))
    assert max(differences) <= (1e-4 if is_exact else max(roundings))
