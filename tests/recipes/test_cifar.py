"""configs/cifar.py: sizes, data and what it refuses."""

import jax
import numpy as np
import pytest

from configs import cifar
from mixer.config import check_config
from mixer.models import build_model


@pytest.mark.parametrize(
    ("size", "params"), [("0.15M", 0.156e6), ("0.7M", 0.653e6), ("2M", 2.17e6), ("10M", 10.14e6)]
)
def test_the_sizes_have_their_parameters(size, params):
    config = cifar.get_config(f"{size},cifar10")
    check_config(config)
    model = build_model(**config.model, num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == pytest.approx(params, rel=0.02)
    # The proportions of Table 1.
    assert config.model.channels_mlp_dim == 4 * config.model.hidden_dim
    assert config.model.tokens_mlp_dim * 2 == config.model.hidden_dim


def test_the_data_that_it_trains_on():
    assert cifar.get_config().dataset == "cifar10"
    assert cifar.get_config("2M,cifar100").dataset == "cifar100"
    config = cifar.get_config("2M,folder:/data/birds, of 32 pixels")
    assert config.dataset == "folder:/data/birds, of 32 pixels"
    assert config.train_split == "train[:96%]"
    assert config.eval_splits.to_dict() == {"minival": "train[96%:]", "test": "test"}


def test_a_short_run_has_8000_steps_and_no_regularisation_for_more():
    config, short = cifar.get_config("0.7M,cifar100"), cifar.get_config("0.7M,cifar100,short")
    check_config(short)
    assert (config.num_epochs, short.num_steps) == (300.0, 8000)
    assert "num_epochs" not in short
    assert (config.mixup_alpha, short.mixup_alpha) == (0.5, 0.0)
    rates = [each.model.stochastic_depth_rate for each in (config, short)]
    assert rates == [0.1, 0.0]
    assert short.dataset == "cifar100"


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"size of cifar.py.*'3M'.*0.15M"):
        cifar.get_config("3M")
    with pytest.raises(ValueError, match=r"dataset of cifar.py.*'cifar'.*folder:PATH"):
        cifar.get_config("2M,cifar")
