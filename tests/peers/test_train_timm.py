"""timm's training takes the steps of ours."""

import importlib.util
import itertools
import sys
import time
from types import SimpleNamespace

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import cifar_fractions
from mixer.batch import mixup_weight
from mixer.build import build_without_data
from mixer.models import build_model
from mixer.reporting.config_file import read_config
from mixer.reporting.metrics import is_evaluation, read_metrics
from mixer.train_state import TrainState
from mixer.train_step import make_train_step
from mixer.weights.mixer_timm import to_timm
from tests.children import run
from tests.conftest import ROOT
from tests.models.tiny import random_params

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed"),
    pytest.mark.filterwarnings("ignore"),  # from PyTorch and timm
]


@pytest.fixture(scope="module")
def peer():
    """The modules, which import PyTorch."""
    from tests.peers import images_in_memory, timm_recipe, timm_training

    return SimpleNamespace(
        torch=timm_recipe.torch,
        recipe=timm_recipe,
        data=images_in_memory,
        train=timm_training.train,
    )


def small_config(**changes):
    config = cifar_fractions.get_config()
    config.num_steps = 10
    config.image_size = config.eval_resize = 8
    config.batch_size = 6
    config.model.update(num_blocks=3, hidden_dim=12, tokens_mlp_dim=7, channels_mlp_dim=29)
    config.model.stochastic_depth_rate = 0.0
    config.optimizer.warmup_steps = 2
    config.optimizer.learning_rate = 0.01
    config.update(changes)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "softmax", "mixup_alpha": 0.0, "accumulation_steps": 3},
        {"loss": "sigmoid", "mixup_alpha": 0.5, "polyak_decay": 0.7},
        {"loss": "softmax", "mixup_alpha": 0.2, "model": {"gelu_approximate": False}},
    ],
)
def test_steps_are_ours(peer, changes):
    config = small_config(**changes)
    config.optimizer.clip_global_norm = 0.5
    config.optimizer.weight_decay = 3.0
    options, _ = build_without_data(config)
    model = build_model(**options.model, num_classes=10)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 6)
    params = random_params(model, images)
    state = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        options.optimizer.init(params),
        params if config.polyak_decay else None,
    )
    ours = jax.jit(
        make_train_step(
            model,
            options.optimizer,
            options.loss,
            num_classes=10,
            mixup_alpha=config.mixup_alpha,
            accumulation_steps=config.accumulation_steps,
            polyak_decay=config.polyak_decay,
            seed=config.seed,
        )
    )
    training = peer.recipe.Training(config, 10, 10, compiled=False)
    start = {name: peer.torch.tensor(x) for name, x in timm_arrays(params).items()}
    training.network.load_state_dict(start)
    if config.polyak_decay:
        training.eval_network.module.load_state_dict(start)
    for step in range(3):
        weight = 1.0
        if config.mixup_alpha:
            key, _ = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), step))
            weight = float(mixup_weight(key, config.mixup_alpha))
            assert weight < 0.99
        state, metrics = ours(state, {"images": images, "labels": labels[:, None]})
        assert metrics["grad_norm"] > 0.5  # clipped
        loss = training.step(peer.torch.tensor(images), peer.torch.tensor(labels), weight)
        np.testing.assert_allclose(float(loss), metrics["loss"], rtol=1e-5)
    moved = jax.tree.map(np.subtract, state.params, params)
    assert optax.tree.norm(moved) > 0.1
    assert_equal(training.network.state_dict(), state.params)
    scored = training.evaluate(peer.torch.tensor(images), peer.torch.tensor(labels))
    logits = model.apply({"params": state.eval_params}, images / np.float32(127.5) - 1)
    expected = options.loss(logits, jax.nn.one_hot(labels, 10))
    assert scored["loss"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert scored["top1"] == np.mean(logits.argmax(1) == labels)
    assert scored["count"] == 6
    if config.polyak_decay:
        assert_equal(training.eval_network.module.state_dict(), state.averaged_params)


def timm_arrays(params):
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return to_timm({name: np.array(x) for name, x in flat.items()})


def assert_equal(theirs, params):
    expected = timm_arrays(params)
    assert theirs.keys() == expected.keys()
    for name, array in expected.items():
        # Added to all channels of a token, it is removed by every layer norm: its gradient is
        # rounding, of which Adam makes whole steps.
        if not name.endswith("mlp_tokens.fc2.bias"):
            np.testing.assert_allclose(theirs[name].numpy(), array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_learning_rate_is_ours(peer, decay, warmup):
    config = small_config(num_steps=20)
    config.optimizer.update(decay=decay, warmup_steps=warmup, end_learning_rate=1e-3)
    options, _ = build_without_data(config)
    for step in range(20):
        theirs = peer.recipe.learning_rate(config.optimizer, step, 20)
        assert theirs == pytest.approx(float(options.schedule(step)), rel=1e-5, abs=1e-9)


def test_a_run_starts_as_ours(peer):
    config = small_config()
    config.model.update(hidden_dim=64, tokens_mlp_dim=48, channels_mlp_dim=256)
    config.model.update(head_bias_init=-2.2, stochastic_depth_rate=0.5)
    model = build_model(**dict(config.model), num_classes=10)
    params = model.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    peer.torch.manual_seed(0)
    network = peer.recipe.create_network(config.model, 10, 8)
    expected, found = timm_arrays(params), network.state_dict()
    assert {name: x.shape for name, x in expected.items()} == {
        name: tuple(x.shape) for name, x in found.items()
    }
    for name, array in expected.items():
        mean, spread = np.mean(array), np.std(array)
        assert np.std(found[name].numpy()) == pytest.approx(spread, rel=0.15, abs=1e-7), name
        error = float(5 * spread / array.size**0.5 + 1e-6)
        assert np.mean(found[name].numpy()) == pytest.approx(mean, abs=error), name
    ones = peer.torch.ones(2000, 4, 3)
    for block, rate in zip(network.blocks, (0.0, 0.25, 0.5), strict=True):
        kept = block.drop_path(ones)
        assert set(kept.flatten().tolist()) <= {0.0, 1.0}  # not rescaled
        assert (kept == kept[:, :1, :1]).all()
        assert float(kept.mean()) == pytest.approx(1 - rate, abs=0.05)


def test_a_run_learns_and_writes_our_metrics(peer, digits_config, tmp_path, capsys):
    config = digits_config
    config.model.stochastic_depth_rate = 0.1
    config.train_crop = ConfigDict({"name": "padded_crop", "padding": 1})
    del config.num_epochs
    config.num_steps = 50
    config.eval_every = 40
    config.log_every = 20
    config.optimizer.learning_rate = 0.01
    training = peer.train(config, tmp_path, started=time.monotonic() - 5)
    lines = read_metrics(tmp_path)
    assert [(line["step"], is_evaluation(line)) for line in lines] == [
        *[(20, False), (40, False), (40, True), (50, False), (50, True)]
    ]
    for before, after in itertools.pairwise(lines):
        trained = after["train_seconds"] - before["train_seconds"]
        passed = after["wall_seconds"] - before["wall_seconds"]
        assert trained == 0.0 if is_evaluation(after) else 0.0 < trained <= passed
        assert passed > 0.0
    assert lines[0]["wall_seconds"] > 5 + lines[0]["train_seconds"]
    assert lines[2]["test/count"] == 364
    assert lines[0]["loss"] > 1.1 * lines[-2]["loss"]
    assert lines[-1]["test/top1"] > 0.2
    images, labels, classes = peer.data.read_split(config, "test")
    assert classes == 10
    assert training.evaluate(images, labels)["loss"] == pytest.approx(lines[-1]["test/loss"])
    assert (tmp_path / "config.json").exists()
    assert capsys.readouterr().out.count("images/s | test ") == 2
    with pytest.raises(ValueError, match="Expected a new --workdir; got one with .*jsonl"):
        peer.train(config, tmp_path, started=time.monotonic() - 5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.name", "vit"),
        ("optimizer.name", "momentum"),
        ("optimizer.decay", "staircase"),
        ("optimizer.mu_dtype", "bfloat16"),
        ("init_from", "mixer.npz"),
        ("train_crop.name", "inception_crop"),
        ("randaugment.layers", 2),
    ],
)
def test_what_the_peer_does_not_have_is_refused(peer, key, value):
    config = small_config(train_crop={"name": "padded_crop", "padding": 1})
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"Expected {key} to be .*; got {value!r}"):
        peer.recipe.check_recipe(config)


@pytest.mark.slow
def test_the_command_trains(data_dir, tmp_path):
    command = [sys.executable, "-m", "tests.peers.train_timm", "--config=configs/cifar.py:0.15M"]
    flags = [f"--workdir={tmp_path / 'run'}", f"--data_dir={data_dir}", "--config.batch_size=32"]
    flags += ["--config.dataset=digits", "--config.optimizer.warmup_steps=1"]
    flags += ["--steps=4", "--eval_every=2", "--seed=3"]
    result = run([*command, *flags], cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert [line.partition(" | ")[0] for line in result.stdout.splitlines()] == [
        "step 2/4",
        "step 4/4",
    ]
    config = read_config(tmp_path / "run")
    keys = ("data_dir", "num_steps", "eval_every", "seed", "batch_size")
    assert [config[key] for key in keys] == [data_dir, 4, 2, 3, 32]
    assert "num_epochs" not in config
    result = run([*command, *flags], cwd=ROOT)
    assert result.returncode == 1
    assert result.stderr.startswith("error: Expected a new --workdir")
