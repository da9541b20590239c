"""All families alike: from a published file, a run and a converted file; into one of another."""

import functools
import os
from collections.abc import Callable

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from cases import slow_after

from configs import digits
from mixer.checkpoint.save import Checkpoints
from mixer.models import build_model
from mixer.train_loop import train
from mixer.train_state import TrainState
from mixer.weights import load_params, save_params
from mixer.weights.load import (
    LoadedModel,
    initial_params,
    load_model,
    lost_in_files,
    save_weights,
)
from mixer.weights.weights import Weights, load_weights, resized_params
from tests.weights.family_files import GOLDEN

FILES = (
    "mixer_tiny.npz",
    "vit_tiny.npz",
    "bit_tiny.npz",
    "timm_gmlp_tiny.safetensors",
    "vit_tiny_prelogits.npz",
    "bit_v1_tiny.npz",
)
FAMILIES = {"mixer": FILES[0], "vit": FILES[1], "bit": FILES[2], "gmlp": FILES[3]}
OTHER = {True: "--gelu=tanh", False: "--gelu=exact"}


def weights_of(file: str) -> Weights:
    return load_weights(str(GOLDEN / file))


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes a checkpoint with a file's parameters, and a config with its model, once."""

    @functools.cache
    def run_of(file: str, **model: object) -> str:
        weights, workdir = weights_of(file), tmp_path_factory.mktemp("run")
        fields = {"name": weights.family, **weights.found.fields, **weights.model, **model}
        num_classes = fields.pop("num_classes")
        config = digits.get_config().to_dict() | {"model": fields, "image_size": weights.image_size}
        meta = {"config": config, "data": {}, "class_names": [str(n) for n in range(num_classes)]}
        params = jax.tree.map(jnp.asarray, weights.params)
        with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(1, TrainState(jnp.zeros((), jnp.int32), params, ()), meta)
        return str(workdir)

    return run_of


@functools.cache
def compiled(model: nn.Module):
    return jax.jit(model.apply)


def logits_of(loaded: LoadedModel) -> bytes:
    side = min(loaded.image_size, 32)  # a BiT-ResNet takes any
    images = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    logits = compiled(loaded.model)({"params": loaded.params}, images)
    assert np.std(logits) > 0.05
    return np.asarray(logits).tobytes()


@pytest.mark.parametrize("file", slow_after(1, FILES))
def test_file_run_and_converted_files_give_the_same_bits(file, tmp_path, run_of):
    weights = weights_of(file)
    sources = [run_of(file)]
    for suffix in [".npz", ".safetensors"][: 1 if weights.family == "bit" else 2]:
        for name, source in (("file", weights), ("run", load_weights(sources[0]))):
            sources.append(str(tmp_path / f"{name}{suffix}"))
            note = save_weights(sources[-1], source, weights.image_size)
            assert "--gelu" not in note
    expected = logits_of(load_model(str(GOLDEN / file)))
    for source in sources:
        loaded = load_model(source)
        is_recorded = not source.endswith(".npz") or weights.family == "bit"
        assert (loaded.assumed == "") == is_recorded
        assert logits_of(loaded) == expected, source


@pytest.mark.parametrize("family", slow_after(1, ["mixer", "vit", "gmlp"]))
def test_the_unusual_gelu_is_recorded_or_its_flag_is_said(family, tmp_path, run_of):
    weights = weights_of(FAMILIES[family])
    is_tanh = not weights.model["gelu_approximate"]
    run = run_of(FAMILIES[family], gelu_approximate=is_tanh)
    expected = load_model(run)
    assert (expected.model.gelu_approximate, expected.assumed) == (is_tanh, "")
    for suffix in (".safetensors", ".npz"):
        path = tmp_path / f"w{suffix}"
        note = save_weights(path, load_weights(run), weights.image_size)
        assert (OTHER[is_tanh] in note) == (suffix == ".npz")
        flag = OTHER[is_tanh].partition("=")[2] if suffix == ".npz" else None
        loaded = load_model(str(path), gelu=flag)
        assert (loaded.model, loaded.assumed) == (expected.model, "")
    assert load_model(str(path)).model.gelu_approximate is not is_tanh
    assert OTHER[is_tanh] in load_model(str(path)).assumed


def model_for(family: str, image_size: int, **fields: object) -> nn.Module:
    """Returns the model in a config that the family's file fits."""
    weights = weights_of(FAMILIES[family])
    found = dict(weights.found.fields)
    if family == "mixer":
        found["tokens_mlp_dim"] *= (image_size // weights.image_size) ** 2
    return build_model(family, **{**found, **weights.model, "num_classes": 3, **fields})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", FAMILIES)
def test_weights_of_one_family_for_another(family, other, tmp_path, capsys):
    path, model = str(GOLDEN / FAMILIES[family]), model_for(other, 32)
    if family == other:
        params = initial_params(path, model, 32)
        whole = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)))["params"]
        assert params.keys() == whole.keys() - {"head"}
        del whole["head"]
        assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, whole)
        assert capsys.readouterr().err == ""
        return
    names = [type(model_for(name, 32)).__name__ for name in (other, family)]
    message = "config, {}; got those of {}. Use config.model.name=".format(*names)
    # At another resolution, which the weights may not take, it is the family that is named.
    for size in (32, 24, 17):
        with pytest.raises(ValueError, match=f"{message}{family}, or other weights in init_from"):
            initial_params(path, model, size)


@pytest.mark.parametrize("family", ["mixer", "vit", "gmlp"])
def test_fine_tuning_with_another_gelu_is_noticed(family, tmp_path, capsys, run_of):
    weights = weights_of(FAMILIES[family])
    is_tanh = weights.model["gelu_approximate"]
    model = model_for(family, 32, gelu_approximate=not is_tanh)
    unknown, recorded = tmp_path / "unknown.npz", tmp_path / "recorded.safetensors"
    save_params(unknown, weights.params)
    save_params(recorded, weights.params, gelu_approximate=is_tanh)
    initial_params(str(unknown), model, 32)
    usual, other = ("the tanh approximation", "the exact GELU")[:: 1 if is_tanh else -1]
    assert capsys.readouterr().err == (
        f"{unknown} does not record the type of GELU: such weights usually have {usual}; the "
        f"config sets {other}.\n"
    )
    for source in (str(recorded), run_of(FAMILIES[family])):
        with pytest.raises(
            ValueError, match=rf"got gelu_approximate {is_tanh} \(the config: {not is_tanh}\)"
        ):
            initial_params(source, model, 32)
    assert capsys.readouterr().err == ""


def test_pre_logits_are_left_out_with_the_head_unless_the_model_has_them(capsys, run_of):
    file = str(GOLDEN / "vit_tiny_prelogits.npz")
    for source in (file, run_of("vit_tiny_prelogits.npz")):
        params = initial_params(source, model_for("vit", 32, representation_size=0), 32)
        assert params.keys() == {"embedding", "cls", "Transformer"}
        said = f"The layer pre_logits of {source} is left out with its head.\n"
        assert capsys.readouterr().err == said
        params = initial_params(source, model_for("vit", 64, representation_size=24), 64)
        assert params.keys() == {"embedding", "cls", "Transformer", "pre_logits"}
        assert capsys.readouterr().err == ""
        with pytest.raises(ValueError, match=r"got representation_size 24 \(the config: 25\)"):
            initial_params(source, model_for("vit", 32, representation_size=25), 32)
    with pytest.raises(ValueError, match=r"got representation_size 0 \(the config: 24\)"):
        initial_params(
            str(GOLDEN / FAMILIES["vit"]), model_for("vit", 32, representation_size=24), 32
        )


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        ("mixer", 24, "images of 16 pixels .* multiples of 16. Expected 16, 32, 48, ...; got 24"),
        ("vit", 36, "images of 32 pixels .* multiples of 8. Expected 8, 16, 24, ...; got 36"),
        ("gmlp", 64, "A gMLP has one resolution, .* Expected 32 pixels; got 64"),
        ("bit", 0, "image size of at least 1 pixel; got 0"),
        ("vit", -8, "got -8"),
        ("gmlp", 0, "got 0"),
    ],
)
def test_a_resolution_that_a_family_cannot_take(family, size, message, tmp_path):
    weights = weights_of(FAMILIES[family])
    for attempt in (
        lambda: load_model(str(GOLDEN / FAMILIES[family]), image_size=size),
        lambda: resized_params(weights, size),
        lambda: initial_params(str(GOLDEN / FAMILIES[family]), model_for(family, 32), size),
        lambda: save_weights(tmp_path / "w.npz", weights, size),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert os.listdir(tmp_path) == []


def test_resolutions_that_families_take():
    for family, sizes in {"mixer": (48,), "vit": (8, 40), "bit": (1, 33), "gmlp": (32,)}.items():
        for size in sizes:
            loaded = load_model(str(GOLDEN / FAMILIES[family]), image_size=size)
            images = np.zeros((1, size, size, 3), np.float32)
            logits = jax.eval_shape(loaded.model.apply, {"params": loaded.params}, images)
            assert logits.shape == (1, loaded.model.num_classes)


def test_the_image_size_of_a_family_that_takes_any_is_said(tmp_path, run_of):
    run = load_weights(run_of(FAMILIES["bit"]))
    flags = "add what it does not record: {}--class_names=FILE --crop=resize_crop"
    for size, said in ((32, "--image_size=32 "), (224, "")):
        note = save_weights(tmp_path / f"{size}.npz", run, size)
        assert flags.format(said) in note
    assert "--image_size" not in lost_in_files(weights_of(FAMILIES["vit"]), 32, ".npz")


def test_a_run_from_weights_of_another_family_writes_nothing(tmp_path, digits_config):
    digits_config.init_from = str(GOLDEN / FAMILIES["vit"])
    with pytest.raises(ValueError, match="in the config, MlpMixer; got those of VisionTransf"):
        train(digits_config, tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_a_family_without_gelu_has_no_flag_for_it(tmp_path, run_of):
    file = str(GOLDEN / FAMILIES["bit"])
    for source in (file, run_of(FAMILIES["bit"])):
        assert load_model(source).assumed == ""
        with pytest.raises(ValueError, match="--gelu=exact; got those of BitResNet.* Leave out"):
            load_model(source, gelu="exact")
    with pytest.raises(ValueError, match="Expected .npz for the weights of a BiT-ResNet; got .saf"):
        save_weights(tmp_path / "w.safetensors", weights_of(FAMILIES["bit"]), 32)
    assert os.listdir(tmp_path) == []


def test_what_the_arrays_in_timms_files_do_not_tell_is_in_the_metadata(tmp_path, assert_same_bits):
    def flat(params: dict) -> dict[str, np.ndarray]:
        return flax.traverse_util.flatten_dict(params, sep="/")

    for name in ("vit_tiny", "vit_tiny_gap", "vit_tiny_prelogits"):
        params, path = load_params(GOLDEN / f"{name}.npz"), tmp_path / f"{name}.safetensors"
        save_params(path, params)
        assert safetensors.safe_open(path, "numpy").metadata() == {"num_heads": "4"}
        assert_same_bits(flat(load_params(path)), flat(params))
        assert load_model(str(path)).model.gelu_approximate is False  # as usual in PyTorch
    save_params(path, params, gelu_approximate=True, overwrite=True)
    metadata = safetensors.safe_open(path, "numpy").metadata()
    assert metadata == {"num_heads": "4", "gelu_approximate": "true"}
    assert load_model(str(path)).model.gelu_approximate is True
    tensors = safetensors.numpy.load_file(path)
    for metadata, message in (
        ({"num_heads": "8"}, None),
        ({"num_heads": "5"}, "an integer that divides the width 32; got 5. Correct it"),
        ({"num_heads": "four"}, "an integer that divides the width 32; got 'four'"),
        ({"num_heads": "4", "gelu_approximate": "tanh"}, "be true or false; got 'tanh'. Correct"),
        ({"num_heads": "9" * 10_000}, "divides the width 32; got '9999"),
        ({"num_heads": "[" * 100_000}, r"divides the width 32; got '\[\[\["),
        ({"num_heads": "4", "gelu_approximate": "0" * 10_000}, "true or false; got '0000"),
        ({"format": "pt"}, 'record num_heads, .* Add it: .*, {"num_heads": "12"}'),
        (None, "record num_heads, as its arrays do not tell it"),
    ):
        safetensors.numpy.save_file(tensors, path, metadata)
        if message is None:
            assert load_model(str(path)).model.num_heads == 8
        else:
            with pytest.raises(
                ValueError, match=f"Cannot load {path}. Expected .*{message}"
            ) as error:
                load_model(str(path))
            assert len(str(error.value)) < 500
