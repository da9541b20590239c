"""Folders for the Hugging Face hub: what is in them, and that they load as the same model."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import sys

import children
import jax
import numpy as np
import pytest
import safetensors.numpy
import yaml

import mixer
from mixer.export import hub
from mixer.export.hub import timm_model, write_hub_folder
from mixer.models import build_model
from mixer.weights import save_params
from mixer.weights.load import load_model
from mixer.weights.weights import Weights, load_weights
from tests.models.tiny import random_params

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
IMAGES = np.random.default_rng(1).uniform(-1, 1, (3, 224, 224, 3)).astype(np.float32)
VIT = load_weights(str(GOLDEN / "vit_tiny.npz"))


def weights_of(folder, name, variant, num_classes=3, **fields) -> Weights:
    """Returns random weights for 224 pixels of a named size with some fields replaced."""
    model = build_model(name, variant, num_classes=num_classes, **fields)
    path = folder / f"{name}.npz"
    save_params(path, random_params(model, IMAGES[:1]), overwrite=True)
    weights = load_weights(str(path))
    known = {key: fields[key] for key in ("gelu_approximate",) if key in fields}
    return dataclasses.replace(weights, model=weights.model | known)


def logits_of(weights: Weights, images) -> np.ndarray:
    from mixer.weights.rebuild import rebuild_model

    model = rebuild_model(weights.model, weights.params, weights.image_size)
    return np.asarray(jax.jit(model.apply)({"params": weights.params}, images))


def test_what_is_in_a_folder(tmp_path):
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: VIT.found.fields["num_classes"]])
    weights = dataclasses.replace(VIT, class_names=names)
    folder = tmp_path / "hub"
    assert write_hub_folder(folder, weights, source="/home/me/vit.npz", licence="cc-by-4.0") == ""
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
    config = json.loads((folder / "config.json").read_text())
    images = config.pop("pretrained_cfg")
    assert config == {
        "architecture": "vit_base_patch16_224",
        "num_classes": len(names),
        "num_features": 32,
        "global_pool": "token",
        "label_names": list(names),
        "model_args": {
            "img_size": weights.image_size,
            **dict(patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2.0),
            "act_layer": "gelu_tanh",
        },
    }
    assert images["input_size"] == [3, weights.image_size, weights.image_size]
    assert images["mean"] == images["std"] == [0.5, 0.5, 0.5]
    assert images["crop_pct"] == pytest.approx(0.875, abs=0.02)
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("cc-by-4.0", "timm")
    assert head["pipeline_tag"] in head["tags"]
    assert "Source: `vit.npz`" in card
    assert "exact GELU" not in card


def test_it_loads_as_the_model_that_was_written(tmp_path):
    weights = dataclasses.replace(VIT, class_names=None)
    write_hub_folder(tmp_path / "hub", weights, source="vit_tiny.npz")
    loaded = load_model(str(tmp_path / "hub"))
    assert loaded.assumed == ""  # the type of GELU is recorded
    images = IMAGES[:, : weights.image_size, : weights.image_size]
    own = loaded.model.apply({"params": loaded.params}, images)
    np.testing.assert_array_equal(own, logits_of(weights, images))
    assert loaded.recipe.resize_for(weights.image_size) == VIT.recipe.resize_for(VIT.image_size)
    assert len(mixer.load(tmp_path / "hub").class_names) == weights.found.fields["num_classes"]


@pytest.mark.parametrize(
    ("name", "variant", "fields", "architecture", "arguments"),
    [
        ("mixer", "S/32", {}, "mixer_s32_224", {}),
        ("mixer", "S/32", dict(tokens_mlp_dim=100), "mixer_s32_224", {"mlp_ratio": [25 / 128, 4]}),
        ("gmlp", "Ti/16", dict(num_blocks=30), "gmlp_ti16_224", {}),
        ("vit", "Ti/16", dict(gelu_approximate=False), "vit_tiny_patch16_224", {}),
    ],
)
def test_timms_names(tmp_path, name, variant, fields, architecture, arguments):
    weights = weights_of(tmp_path, name, variant, **fields)
    if "gelu_approximate" in fields:
        weights = dataclasses.replace(weights, model=fields)
    found, given, _ = timm_model(weights, 224)
    assert (found, given) == (architecture, {"img_size": 224, **arguments})


@pytest.mark.slow
def test_a_mixer_with_tanh_is_marked(tmp_path):
    weights = weights_of(tmp_path, "mixer", "S/32")
    said = write_hub_folder(tmp_path / "hub", weights, source="gsam/Mixer-S_32")
    assert "timm computes the exact GELU" in said
    card = (tmp_path / "hub" / "README.md").read_text()
    assert said in card
    assert "Published at https://storage.googleapis.com/mixer_models/gsam/Mixer-S_32.npz" in card
    assert "Not recorded. Find out" in card
    assert load_model(str(tmp_path / "hub")).model.gelu_approximate is True
    exact = dataclasses.replace(weights, model={"gelu_approximate": False})
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    difference = np.abs(logits_of(weights, images) - logits_of(exact, images)).max()
    assert f"differ by up to {difference:.1e}, where" in said


@pytest.mark.parametrize(
    ("name", "variant", "fields", "message"),
    [
        ("mixer", "H/14", dict(num_blocks=1), "got a Mixer with 1 blocks, patches of 14 and width"),
        ("mixer", "S/32", dict(num_blocks=2), "where timm has S/32, S/16, B/32, B/16, L/32, L/16"),
        ("gmlp", "Ti/16", dict(num_blocks=2), "got a gMLP of another size than Ti/16, S/16, B/16"),
        ("vit", "Ti/16", dict(num_blocks=1, representation_size=8), "a layer before the head"),
        ("bit", None, dict(block_sizes=(1,), width=0.5), "got a bit, which has no weights in timm"),
    ],
)
def test_what_timm_cannot_hold_is_refused(tmp_path, name, variant, fields, message):
    weights = weights_of(tmp_path, name, variant, **fields)
    with pytest.raises(ValueError, match=f"Expected a model that timm can build.*{message}"):
        write_hub_folder(tmp_path / "hub", weights, source="x")
    assert not (tmp_path / "hub").exists()


def test_what_stands_in_the_way(tmp_path, monkeypatch):
    def refused(message, folder=tmp_path / "hub", **options):
        with pytest.raises(ValueError, match=message):
            write_hub_folder(folder, VIT, source="x", **options)

    refused("Expected a licence as the hub names it.*got 'MIT\\\\n'", licence="MIT\n")
    refused("Expected a new folder to write; got something there", tmp_path)
    refused("got no folder .*missing: .*Choose another", tmp_path / "missing" / "hub")

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(hub, "save_params", fail)
    with pytest.raises(OSError, match="No space left"):
        write_hub_folder(tmp_path / "hub", VIT, source="x")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path):
    """A folder as timm writes one: nothing in the metadata of the tensors."""
    write_hub_folder(tmp_path / "hub", VIT, source="vit_tiny.npz")
    path = tmp_path / "hub" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, {"num_heads": "4", "format": "pt"})
    return tmp_path / "hub"


def change(folder: pathlib.Path, section: str | None, **values: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config if section is None else config[section]).update(values)
    path.write_text(json.dumps(config))


def test_the_config_decides_what_the_arrays_do_not_tell(folder):
    assert load_model(str(folder)).model.gelu_approximate is True
    change(folder, "model_args", act_layer="gelu")
    assert load_model(str(folder)).model.gelu_approximate is False
    change(folder, "model_args", act_layer=None, drop_path_rate=0.1, in_chans=3, fc_norm=False)
    loaded = load_model(str(folder))
    assert loaded.model.gelu_approximate is False
    assert "hub does not record the type of GELU: the exact GELU is used" in loaded.assumed
    change(folder, "pretrained_cfg", crop_pct=0.5, crop_mode="squash")
    recipe = load_model(str(folder)).recipe
    assert (recipe.crop, recipe.resize) == ("resize_crop", 2 * recipe.image_size)


@pytest.mark.parametrize("weights", ["vit_tiny.npz", "timm_gmlp_tiny.safetensors"])
def test_another_normalisation_moves_into_the_patches(folder, weights):
    source = load_weights(str(GOLDEN / weights))
    if "gmlp" in weights:
        shutil.copy(GOLDEN / weights, folder / "model.safetensors")
        change(folder, None, architecture="gmlp_s16_224", model_args={}, global_pool="avg")
    source = dataclasses.replace(
        source, model={"gelu_approximate": "vit" in weights}, class_names=None
    )
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    change(folder, "pretrained_cfg", mean=mean.tolist(), std=std.tolist())
    pixels = (IMAGES[:, : source.image_size, : source.image_size] + 1) / 2
    expected = logits_of(source, (pixels - mean) / std)  # as timm does
    loaded = load_model(str(folder))
    ours = loaded.model.apply({"params": loaded.params}, 2 * pixels - 1)
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (None, dict(architecture="vit_so400m_patch14_siglip_gap_224"), "plain Mixer, gMLP or ViT"),
        (None, dict(architecture="vit_base_patch16_rpn_224"), "plain Mixer, gMLP or ViT"),
        (
            "model_args",
            dict(pre_norm=True),
            "got pre_norm=True, with which timm computes something",
        ),
        ("model_args", dict(fc_norm=True), "got fc_norm=True, with which"),
        ("model_args", dict(in_chans=1), "got in_chans=1, with which"),
        ("model_args", dict(act_layer="quick_gelu"), "Unknown act_layer 'quick_gelu'"),
        ("model_args", dict(global_pool="avg"), "Expected global_pool=token in .*got avg"),
        ("model_args", dict(num_heads=2), "Expected num_heads=4 in .*config.json.*got 2"),
        ("pretrained_cfg", dict(crop_mode="border"), "Unknown crop_mode 'border'"),
        ("pretrained_cfg", dict(mean=[0.5]), "got mean"),
        ("pretrained_cfg", dict(std=[0, 1, 1]), "got mean"),
        ("pretrained_cfg", dict(mean="a"), "Its config.json is not understood"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(folder, section, values, message):
    change(folder, section, **values)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


def test_a_run_in_the_folder_comes_first(folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds weights files; name one: model.safetensors"):
        load_model(str(folder))


IN_TIMM = """
import sys, numpy, timm, torch
model = timm.create_model(f"local-dir:{sys.argv[1]}", pretrained=True).eval()
images = torch.from_numpy(numpy.load(sys.argv[2]).transpose(0, 3, 1, 2).copy())
with torch.no_grad():
    numpy.save(sys.argv[3], model(images).numpy())
data = timm.data.resolve_model_data_config(model)
assert [*data["mean"], *data["std"]] == [0.5] * 6, data  # lists or tuples, as timm's version has it
assert [*data["input_size"]] == [3, *images.shape[2:]], data
"""


def in_timm(folder: pathlib.Path, images: np.ndarray) -> np.ndarray:
    """Returns the logits that timm computes with a folder, in another process."""
    np.save(folder.parent / "images.npy", images)
    files = [folder, folder.parent / "images.npy", folder.parent / "logits.npy"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = children.run([sys.executable, "-c", IN_TIMM, *files], env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder.parent / "logits.npy")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    ("name", "variant", "fields", "image_size"),
    [
        ("mixer", "S/32", dict(gelu_approximate=False), 224),
        ("mixer", "S/16", dict(gelu_approximate=False), 224),
        ("mixer", "S/32", dict(gelu_approximate=False), 448),
        ("mixer", "S/32", dict(gelu_approximate=False, tokens_mlp_dim=100), 224),
        ("gmlp", "Ti/16", dict(gelu_approximate=False), 224),
        ("vit", "Ti/16", dict(gelu_approximate=True), 224),
        ("vit", "S/32", dict(gelu_approximate=False), 224),
        ("vit", "Ti/16", dict(gelu_approximate=True, num_blocks=3, mlp_dim=100), 112),
        ("vit", "Ti/16", dict(gelu_approximate=True, pool="gap", num_classes=0), 224),
    ],
)
def test_timm_computes_the_same(tmp_path, name, variant, fields, image_size):
    weights = weights_of(tmp_path, name, variant, **fields)
    assert write_hub_folder(tmp_path / "hub", weights, image_size, source="x") == ""
    loaded = load_model(str(tmp_path / "hub"))
    images = np.random.default_rng(2).uniform(-1, 1, (2, image_size, image_size, 3))
    images = images.astype(np.float32)
    ours = np.asarray(jax.jit(loaded.model.apply)({"params": loaded.params}, images))
    timms = in_timm(tmp_path / "hub", images)
    assert np.abs(ours - timms).max() <= 1e-4 * np.abs(ours).max()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_what_timm_computes_otherwise_is_what_the_card_says(tmp_path):
    weights = weights_of(tmp_path, "mixer", "S/16")
    said = write_hub_folder(tmp_path / "hub", weights, source="x")
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype(np.float32)
    difference = np.abs(in_timm(tmp_path / "hub", images) - logits_of(weights, images)).max()
    stated = float(said.split("up to ")[1].split(",")[0])
    assert stated == pytest.approx(difference, rel=0.1)


WRITE_IN_TIMM = """
import sys, numpy, timm, torch
torch.manual_seed(0)
model = timm.create_model(sys.argv[1], num_classes=5, pretrained=False).eval()
timm.models.save_for_hf(model, sys.argv[2], safe_serialization=True)
data = timm.data.resolve_model_data_config(model)
mean, std = torch.tensor(data["mean"]), torch.tensor(data["std"])
pixels = torch.rand(2, *data["input_size"][1:], 3)
with torch.no_grad():
    logits = model(((pixels - mean) / std).permute(0, 3, 1, 2))
numpy.savez(sys.argv[3], pixels=pixels.numpy(), logits=logits.numpy())
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(
    "name", ["mixer_s32_224", "gmlp_ti16_224", "vit_tiny_patch16_224", "deit_tiny_patch16_224"]
)
def test_folders_that_timm_writes(tmp_path, name):
    paths = [tmp_path / "hub", tmp_path / "io.npz"]
    done = children.run([sys.executable, "-c", WRITE_IN_TIMM, name, *paths])
    assert done.returncode == 0, done.stderr[-2000:]
    io, loaded = np.load(tmp_path / "io.npz"), load_model(str(tmp_path / "hub"))
    ours = jax.jit(loaded.model.apply)({"params": loaded.params}, 2 * io["pixels"] - 1)
    assert np.abs(ours - io["logits"]).max() <= 1e-4 * np.abs(io["logits"]).max()
    assert loaded.recipe.image_size == loaded.image_size == 224
