"""Windows are paired as documented, and the peers compute the same function as our model."""

import importlib.util
import sys

import jax
import numpy as np
import pytest

from mixer.benchmark.plain_flax import PlainMixer, PlainViT, plain_flax
from mixer.benchmark.timing import Workload
from mixer.models import MODELS, build_model
from tests.models.tiny import random_params
from tests.peers import compare as peers
from tests.peers.timm_peer import timm

_DIMS = {"num_blocks": 2, "patch_size": 2, "hidden_dim": 16}
SIZES = {
    "mixer": {**_DIMS, "tokens_mlp_dim": 8, "channels_mlp_dim": 32},
    "vit": {**_DIMS, "mlp_dim": 32, "num_heads": 2},
    "bit": {"block_sizes": (1, 2, 1, 1), "width": 1.0},
    "gmlp": {**_DIMS, "mlp_dim": 32},
}
WORK = {"batch_size": 4, "image_size": 8, "dtype": "float32"}
TIMES = {"batch_size": 4, "seconds": 0.1, "windows": 2}


def fake() -> Workload:
    return Workload(lambda calls: None, compile_s=7.0)


def test_windows_alternate_and_ratios_are_of_pairs(monkeypatch):
    order = []
    paces = {"ours": iter([8.0, 6.0, 4.0, 9.0]), "a": iter([4.0, 8.0]), "b": iter([2.0, 3.0])}
    works = {name: fake() for name in paces}

    def time_calls(work, calls):
        name = next(name for name in works if works[name] is work)
        order.append(name)
        return next(paces[name])

    monkeypatch.setattr(peers, "warm_up", lambda work, seconds: 1)
    monkeypatch.setattr(peers, "time_calls", time_calls)
    report = peers.compare(
        lambda: works["ours"], {"a": lambda: works["a"], "b": lambda: works["b"]}, **TIMES
    )
    assert order == ["ours", "a", "ours", "b"] * 2
    first, second = report["peers"]
    # Calls per second of ours and of a: 8 and 4, then 4 and 8; four images per call.
    assert first["ratio"] == {"median": 1.25, "min": 0.5, "max": 2.0}
    assert first["ours_images_per_s"] == {"median": 24.0, "min": 16.0, "max": 32.0}
    assert first["images_per_s"] == {"median": 24.0, "min": 16.0, "max": 32.0}
    assert second["ratio"] == {"median": 3.0, "min": 3.0, "max": 3.0}
    assert report["skipped"] == {}


def test_a_peer_that_is_missing_or_fails_is_skipped(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch", None
    )  # makes its import fail, even if it is installed
    monkeypatch.setattr(peers, "warm_up", lambda work, seconds: 1)
    monkeypatch.setattr(peers, "time_calls", lambda work, calls: 5.0)

    def fails():
        raise RuntimeError("no compiler\nand a long story")

    builders = {
        "timm": lambda: timm("vit", SIZES["vit"], mode="infer", compiled=False, **WORK),
        "fails": fails,
        "runs": fake,
    }
    report = peers.compare(fake, builders, **TIMES)
    assert [row["peer"] for row in report["peers"]] == ["runs"]
    assert report["skipped"].keys() == {"timm", "fails"}
    assert "torch" in report["skipped"]["timm"]
    assert report["skipped"]["fails"] == "RuntimeError: no compiler"
    with pytest.raises(ValueError, match="No peer runs here: .*torch"):
        peers.compare(fake, {"timm": builders["timm"]}, **TIMES)


@pytest.mark.parametrize(("name", "plain"), [("mixer", PlainMixer), ("vit", PlainViT)])
def test_plain_flax_is_the_same_function(name, plain):
    model = build_model(name, num_classes=10, **SIZES[name])
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = {"params": random_params(model, images)}
    ours = jax.jit(model.apply)(variables, images)
    assert np.std(ours) > 0.1
    plain = plain(num_classes=10, dtype="float32", **SIZES[name])
    np.testing.assert_allclose(jax.jit(plain.apply)(variables, images), ours, atol=2e-6)


@pytest.mark.slow
def test_training_is_compared_with_plain_flax(  # inference: tests/test_scripts.py
    monkeypatch,
):
    monkeypatch.setitem(MODELS["vit"][1], "tiny", SIZES["vit"] | {"num_blocks": 1})
    report = peers.measure_peers(
        "ViT-tiny", peers=["plain_flax"], mode="train", seconds=0.01, windows=2, **WORK
    )
    (row,) = report["peers"]
    assert (report["model"], report["variant"], report["mode"]) == ("vit", "tiny", "train")
    assert report["device"] == "cpu"
    assert row["peer"] == "plain_flax"
    assert row["images_per_s"]["median"] > 0
    assert 0.01 < row["ratio"]["min"] <= row["ratio"]["max"] < 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "ViT-S/33"}, "model 'ViT-S/33'.*Did you mean 'ViT-S/32'"),
        ({"peers": ["tim"]}, "peer 'tim'.*Did you mean 'timm'"),
        ({"image_size": 100}, "multiples of patch_size=16; got 100 x 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    arguments = {"variant": "S/16", "peers": ["timm"], "mode": "infer", **WORK} | change
    with pytest.raises(ValueError, match=message):
        peers.measure_peers(**arguments, seconds=0.1, windows=1)


def test_what_is_not_written_in_plain_flax_is_said():
    with pytest.raises(NotImplementedError, match="bit is not written in plain flax"):
        plain_flax("bit", SIZES["bit"], mode="infer", **WORK)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.filterwarnings("ignore")  # from PyTorch and timm
@pytest.mark.parametrize(
    ("name", "mode"), [(name, "train") for name in SIZES] + [("mixer", "infer")]
)
def test_timm_runs_with_the_same_number_of_parameters(monkeypatch, name, mode):
    import torch

    counts, adam = [], torch.optim.Adam

    def counting_adam(params, **kwargs):
        params = list(params)
        counts.append(sum(param.numel() for param in params))
        return adam(params, **kwargs)

    monkeypatch.setattr(torch.optim, "Adam", counting_adam)
    timm(name, SIZES[name], mode=mode, compiled=False, **WORK).run(2)
    model = build_model(name, num_classes=1000, **SIZES[name])
    params = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))
    assert counts == [sum(leaf.size for leaf in jax.tree.leaves(params))]
