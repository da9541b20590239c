"""Runs of the experiments' models, read back: as themselves, and at their own resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_unless

from configs import digits
from mixer.checkpoint.save import Checkpoints
from mixer.train_state import TrainState
from mixer.weights.load import initial_params, load_model, save_weights
from mixer.weights.weights import load_weights
from tests.models.tiny import EXPERIMENTS, digits_config, random_params, tiny_model

IMAGES = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
CASES = [(name, {}) for name in EXPERIMENTS]
CASES += [("mixer_variant", dict(token_mixing="grouped", groups=groups)) for groups in (2, 4)]


@pytest.mark.parametrize(("name", "changes"), slow_unless(CASES[0].__eq__, CASES[:-1]) + CASES[-1:])
def test_a_run_is_read_as_its_own_model_at_its_own_resolution(name, changes, tmp_path):
    model = tiny_model(name, **changes)
    params = random_params(model, IMAGES)
    config = digits_config(name).to_dict()
    config["model"].update(changes)
    meta = {"config": digits.get_config().to_dict() | config, "data": {}}
    meta["class_names"] = [str(number) for number in range(10)]
    with Checkpoints(tmp_path / "checkpoints", keep=1) as checkpoints:
        state = TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params), ())
        checkpoints.save(1, state, meta)
    loaded = load_model(str(tmp_path))
    assert type(loaded.model) is type(model)
    np.testing.assert_array_equal(
        jax.jit(loaded.model.apply)({"params": loaded.params}, IMAGES),
        jax.jit(model.apply)({"params": params}, IMAGES),
    )
    assert initial_params(str(tmp_path), model, 16).keys() == params.keys() - {"head"}
    for attempt in (
        lambda: load_model(str(tmp_path), image_size=32),
        lambda: initial_params(str(tmp_path), model, 32),
    ):
        with pytest.raises(ValueError, match=f"16 pixels, those of the run: the model {name} has"):
            attempt()
    with pytest.raises(ValueError, match="no file format|which no file records"):
        save_weights(tmp_path / "w.npz", load_weights(str(tmp_path)), 16)
    assert not (tmp_path / "w.npz").exists()
