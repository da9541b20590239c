"""The model of a run is built from the run's config, whatever its options: the same logits."""

import dataclasses
import pathlib
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
import pytest
from cases import slow_unless
from ml_collections import ConfigDict

from mixer.build import build_run
from mixer.checkpoint.save import Checkpoints
from mixer.models import MODELS
from mixer.models import mixer as mixer_module
from mixer.models import mlp as mlp_module
from mixer.train_loop import Training, create_training
from mixer.train_state import TrainState
from mixer.weights import save_params, weights
from mixer.weights.load import initial_params, load_model, lost_in_files
from mixer.weights.rebuild import deciding_fields
from mixer.weights.weights import load_weights

IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


class WithActivation(mixer_module.MlpMixer):
    """The model with an option that came later; this file lets `gelu` look it up."""

    activation: str = "gelu"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, rows=None) -> jax.Array:
        with pytest.MonkeyPatch.context() as patch:
            if self.activation == "relu":
                patch.setattr(mlp_module, "gelu", lambda y, approximate: nn.relu(y))
            return super().__call__(images, train=train, rows=rows)


@pytest.fixture(scope="module")
def initial_states() -> list[TrainState]:
    """At most one, for all runs: the options change no shape."""
    return []


@pytest.fixture
def save_run(
    tmp_path, digits_config, monkeypatch, on_one_device, initial_states
) -> Callable[..., tuple[str, Training, dict]]:
    """Saves a run of random parameters; returns its workdir, its computation and its parameters."""
    monkeypatch.setitem(MODELS, "later", (WithActivation, {}))

    def save(**model: object) -> tuple[str, Training, dict]:
        digits_config.model.update(model)
        options, mesh, data = build_run(ConfigDict(digits_config))
        training = create_training(options, mesh)
        initial_states[:] = initial_states or [training.init_state({})]
        (state,) = initial_states
        rng = np.random.default_rng(1)
        params = jax.tree.map(
            lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), state.params
        )
        meta = {"config": options.config, "data": {}, "class_names": data.class_names}
        with Checkpoints(tmp_path / "run" / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(1, state.replace(params=params), meta)
        return str(tmp_path / "run"), training, params

    return save


def logits_of(model: nn.Module, params: dict) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)({"params": params}, IMAGES))


OPTIONS = {
    "as in the config": {},
    "exact": {"gelu_approximate": False},
    "half": {"dtype": "bfloat16"},
    "training only": {"dropout_rate": 0.3, "stochastic_depth_rate": 0.2, "head_bias_init": -6.9},
    "remat": {"remat": "elementwise"},
    "later": {"name": "later", "activation": "relu"},
    "all": {
        "name": "later",
        "activation": "relu",
        "gelu_approximate": False,
        "dtype": "bfloat16",
        "remat": "block",
        "dropout_rate": 0.1,
    },
}


@pytest.mark.parametrize("name", slow_unless(("as in the config", "all").__contains__, OPTIONS))
def test_the_logits_are_those_of_the_run(name, save_run):
    options = OPTIONS[name]
    workdir, training, params = save_run(**options)
    loaded = load_model(workdir)
    assert loaded.model == training.model
    assert loaded.assumed == ""
    jax.tree.map(np.testing.assert_array_equal, loaded.params, jax.device_get(params))
    expected = logits_of(training.model, params)
    assert logits_of(loaded.model, loaded.params).tobytes() == expected.tobytes()
    if {"gelu_approximate", "dtype", "activation"} & set(options):  # what a guess would give
        sizes = {name: getattr(loaded.model, name) for name in mixer_module.VARIANTS["B/16"]}
        guess = mixer_module.MlpMixer(num_classes=10, **sizes)
        assert np.abs(logits_of(guess, params) - expected).max() > 1e-5


def test_every_option_of_the_model_is_tried():
    fields = {field.name for field in dataclasses.fields(mixer_module.MlpMixer)}
    sizes = {"num_classes", "parent", "name", *mixer_module.VARIANTS["B/16"]}
    assert fields - sizes <= {name for options in OPTIONS.values() for name in options}


def test_the_larger_resolution_keeps_the_options_of_the_run(save_run):
    workdir, training, _ = save_run(name="later", activation="relu", dtype="bfloat16")
    loaded = load_model(workdir, image_size=32)
    expected = training.model.clone(tokens_mlp_dim=4 * training.model.tokens_mlp_dim)
    assert loaded.model == expected
    assert load_model(workdir, gelu="exact", dtype="float32").model == training.model.clone(
        gelu_approximate=False, dtype="float32"
    )


def test_fine_tuning_needs_every_option_that_decides_what_the_weights_compute(save_run):
    workdir, training, params = save_run(name="later", activation="relu")
    other = training.model.clone(activation="gelu", dropout_rate=0.5, num_classes=3)
    with pytest.raises(ValueError, match=r"got activation relu \(the config: gelu\)\. Change"):
        initial_params(workdir, other, 16)
    fitting = initial_params(workdir, other.clone(activation="relu", dtype="bfloat16"), 16)
    assert fitting.keys() == params.keys() - {"head"}


def test_what_a_file_does_not_record_is_said(save_run, tmp_path):
    workdir, *_ = save_run(gelu_approximate=False)
    run = load_weights(workdir)
    names = "To use it, add what it does not record: --gelu=exact --class_names=FILE"
    expected = f"{names} --crop=resize_crop --eval_resize=16"  # the paper's: resmall_crop, 18
    assert lost_in_files(run, 32, ".npz") == expected.replace("16", "32")
    recipe = dataclasses.replace(run.recipe, crop="resmall_crop", resize=18)
    assert lost_in_files(dataclasses.replace(run, recipe=recipe), 16, ".npz") == names
    assert lost_in_files(run, 16, ".npz") == expected
    save_params(tmp_path / "w.npz", run.params)
    loaded = load_model(str(tmp_path / "w.npz"))
    assert "w.npz does not record the type of GELU: the tanh" in loaded.assumed
    assert "--gelu=exact" in loaded.assumed
    assert lost_in_files(load_weights(str(tmp_path / "w.npz")), 16, ".npz") == ""
    exact = load_model(str(tmp_path / "w.npz"), gelu="exact")
    assert exact.assumed == ""
    assert deciding_fields(exact.model) == deciding_fields(load_model(workdir).model)


def test_what_no_file_could_record_is_not_written_to_one(save_run):
    workdir, *_ = save_run(name="later", activation="relu")
    with pytest.raises(ValueError, match="got one with activation=relu, which no file records"):
        lost_in_files(load_weights(workdir), 16, ".npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"num_blocks": 3},
            "model in the run's config; of 12 that differ, the first is MixerBlock_2",
        ),
        ({"hidden_dim": 32}, "of 19 that differ, the first is MixerBlock_0/LayerNorm_0/bias"),
        ({"num_blocks": "two"}, "got one that cannot be built"),
        ({"depth": 2}, "got one that cannot be built: Unknown field of the model mixer 'depth'"),
        ({"name": "vit"}, "Expected the parameter 'embedding/kernel' of a ViT; got none"),
        ({"name": None}, "got one that cannot be built"),
    ],
)
def test_a_config_that_does_not_fit_its_arrays_is_refused(changes, message, save_run, monkeypatch):
    workdir, *_ = save_run()
    read = weights.read_checkpoint

    def other(path: pathlib.Path) -> tuple[dict, dict]:
        params, meta = read(path)
        meta["config"]["model"].update(changes)
        return params, meta

    monkeypatch.setattr(weights, "read_checkpoint", other)
    with pytest.raises(ValueError, match=message):
        load_model(workdir)


def test_a_checkpoint_that_is_not_finite_is_named(save_run, monkeypatch):
    workdir, *_ = save_run()
    read = weights.read_checkpoint

    def diverged(path: pathlib.Path) -> tuple[dict, dict]:
        params, meta = read(path)
        bias = np.full_like(params["MixerBlock_1"]["LayerNorm_0"]["bias"], np.nan)
        params["MixerBlock_1"]["LayerNorm_0"]["bias"] = bias
        return params, meta

    monkeypatch.setattr(weights, "read_checkpoint", diverged)
    with pytest.raises(
        ValueError, match=r"Cannot load .*run/checkpoints/1. .* MixerBlock_1/LayerNorm_0/bias \(16"
    ):
        load_weights(workdir)
