"""Every key with every kind of wrong value, in Python and on the command line."""

import re
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from absl import flags
from ml_collections import ConfigDict

from configs import digits, finetune
from mixer.build import build_run
from mixer.config import check_config, differences
from mixer.config.keys import KEYS, find_key
from mixer.models.mixer import MlpMixer
from mixer.runtime import command
from mixer.train_loop import create_training
from tests.models.tiny import EXPERIMENTS, TINY, digits_config

# Written by hand: what the table of keys is compared with.
ZERO_MEANS_OFF = {
    *("randaugment.layers", "randaugment.magnitude", "mixup_alpha", "polyak_decay"),
    *("optimizer.warmup_steps", "optimizer.end_learning_rate", "optimizer.clip_global_norm"),
    *("optimizer.beta1", "optimizer.beta2", "optimizer.weight_decay", "optimizer.momentum"),
    *("model.dropout_rate", "model.stochastic_depth_rate", "model.head_bias_init"),
    *("seed", "keep_every", "watchdog_seconds", "model.representation_size"),
}
MINUS_ONE_IS_ALLOWED = {"mesh.data", "mesh.fsdp", "prefetch", "model.head_bias_init"}
BELOW_ONE = {
    *("polyak_decay", "optimizer.beta1", "optimizer.beta2", "optimizer.momentum"),
    *("model.dropout_rate", "model.stochastic_depth_rate"),
}
AT_MOST_ONE = {"train_fraction"}


def config_with(path: str, value: Any) -> ConfigDict:
    """Returns the config of the digits with one value changed; of another recipe if it must be.

    Or of another family of models, if Mixer has no such field.
    """
    config = finetune.get_config("Ti/4,digits") if "momentum" in path else digits.get_config()
    if path == "optimizer.decay_at":
        config = finetune.get_config("BiT-R50x1,digits")
    field = path.removeprefix("model.")
    if path != field and field not in ("name", "variant", *MlpMixer.__dataclass_fields__):
        families = TINY | EXPERIMENTS
        config = digits_config(next(name for name in families if field in families[name]))
    with config.unlocked():
        if path.startswith("model.") and path not in KEYS:
            raise KeyError(path)
        section = config
        *sections, last = path.replace("NAME", "test").split(".")
        for name in sections:
            section = section[name]
        # ConfigDict itself would refuse to change the type of a value.
        if last in section:
            del section[last]
        if path == "num_steps":
            del config.num_epochs
        section[last] = value
    return config


WRONG = {
    "None": None,
    "empty text": "",
    "text": "never heard of",
    "list": [],
    "three numbers": (0.1, 0.2, 0.3),
    "section": ConfigDict({"a": 1}),
    "object": object(),
    "bytes": b"1",
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "huge int": 10**400,
    "huge float": 1e300,
    "negative": -3,
    "half": 1.5,
    "true": True,
    "zero": 0,
    "minus one": -1,
}


def cases() -> Iterator[tuple[str, str]]:
    for path in KEYS:
        for kind in WRONG:
            yield path, kind


def is_right(path: str, kind: str) -> bool:
    """True if the value that is called wrong above is right for this key."""
    type_ = KEYS[path].type
    if path == "model.name":
        return isinstance(WRONG[kind], str) and bool(WRONG[kind])  # a model that others added
    if type_ is str:
        return isinstance(WRONG[kind], str) and not KEYS[path].names()
    if type_ is bool:
        return kind == "true"
    if kind == "three numbers":
        return path == "optimizer.decay_at"
    if kind == "zero":
        return path in ZERO_MEANS_OFF
    if kind == "minus one":
        return path in MINUS_ONE_IS_ALLOWED
    if kind == "negative":
        return path == "model.head_bias_init"
    if kind == "half":
        return type_ is float and path not in BELOW_ONE | AT_MOST_ONE
    return False


@pytest.mark.parametrize("path", KEYS)
def test_only_values_in_the_range_are_accepted(path):
    for kind, value in WRONG.items():
        config = config_with(path, value)
        if is_right(path, kind):
            assert KEYS[path].allows(value) or path == "model.name"
            continue
        name = path.replace("NAME", "test")
        with pytest.raises(ValueError, match=re.escape(name)):
            check_config(config)


def test_there_are_500_cases():
    assert len(list(cases())) >= 500
    assert 20 <= sum(is_right(path, kind) for path, kind in cases()) <= 60


@pytest.mark.parametrize("path", sorted(ZERO_MEANS_OFF))
def test_a_run_is_built_with_zero_where_that_means_off(path, data_dir):
    config = config_with(path, 0)
    config.data_dir = data_dir
    options, mesh, _ = build_run(config)
    create_training(options, mesh)


OVERRIDES = ("", "abc", "-3", "0", "-1", "1e999", "nan", "None", "[]", "{}", "(1,", "9" * 400, "'")


def parsed(*overrides: str) -> ConfigDict | None:
    """Returns the config of a command line, None if its flags are refused."""
    own = flags.FlagValues()
    command.config_flag(own)
    arguments = ["main", "--config=configs/digits.py", *overrides]
    with mock.patch.object(sys, "argv", arguments):
        try:
            own(arguments)
        except command.WRONG_FLAGS:
            return None
    return own["config"].value


@pytest.mark.parametrize("path", KEYS)
def test_overrides_are_accepted_or_refused_without_a_traceback(path):
    name = path.replace("NAME", "test")
    for text in OVERRIDES:
        for argument in (f"--config.{name}={text}", f"--config.{name}.more={text}"):
            config = parsed(argument)
            if config is None:
                continue
            try:
                check_config(config)
            except ValueError:
                continue
            section = config
            for part in name.split("."):
                section = section[part]
            assert find_key(name).allows(section) or name == "model.name", argument


def test_all_problems_are_named_at_once_with_what_was_probably_meant():
    config = digits.get_config()
    config.optimizer.lr = 0.1
    config.bach_size = 3
    config.foo = 3
    del config.flip
    config.model.dtype = "bf16"
    with pytest.raises(ValueError, match="optimizer.lr") as caught:
        check_config(config)
    assert str(caught.value).splitlines() == [
        "Unknown config key 'bach_size'. Did you mean 'batch_size'?",
        "  Unknown config key 'foo'.",
        "  Expected model.dtype to be one of float32, bfloat16; got 'bf16'. Did you mean "
        "'bfloat16'?",
        "  Unknown config key 'optimizer.lr'. Did you mean 'optimizer.learning_rate'?",
        "  Expected the key 'flip' in the config; got none. A config sets every key.",
    ]


@pytest.mark.parametrize("family", TINY)
def test_what_a_family_needs_is_missed_in_its_configs_alone(family):
    config = digits_config(family)
    check_config(config)
    for name in ("gelu_approximate", "dropout_rate", "stochastic_depth_rate"):
        if family != "bit":
            del config.model[name]
            with pytest.raises(ValueError, match=f"Expected the key 'model.{name}' in the config"):
                check_config(config)
            config = digits_config(family)


@pytest.mark.parametrize(
    ("path", "right", "wrong"),
    [
        ("block_sizes", [(3, 4, 6, 3), (2,), [9, 1]], [(), (1, 0), (1.0, 2), ("1",), 3, (True,)]),
        ("width", [0.5, 1, 4.0], [0, -1.0, "1"]),
        ("num_heads", [1, 12], [0, 1.5]),
        ("pool", ["token", "gap"], ["tok", ""]),
        ("version", ["v1", "v2"], ["v3", 1]),
    ],
)
def test_fields_of_other_families(path, right, wrong):
    for value in right:
        assert KEYS[f"model.{path}"].allows(value), value
    for value in wrong:
        assert not KEYS[f"model.{path}"].allows(value), value


def test_stairs_are_one_or_more_fractions():
    key = KEYS["optimizer.decay_at"]
    for value in [(0.5,), [0.3, 0.6, 0.9], (0.1, 0.2, 0.3, 0.4)]:
        assert key.allows(value), value
    for value in [(), 0.5, (0.0, 0.5), (0.5, 1.0), ("0.5",), (float("nan"),), (True,)]:
        assert not key.allows(value), value


def test_a_decay_reads_only_its_own_keys(data_dir):
    config = digits.get_config()
    config.data_dir = data_dir
    config.optimizer.decay = "staircase"
    with pytest.raises(ValueError, match="Expected the key 'optimizer.decay_at' in the config"):
        build_run(config)
    config.optimizer.decay_at = (0.5,)
    with pytest.raises(ValueError, match="does not use these config keys: 'optimizer.end_learning"):
        build_run(config)
    del config.optimizer.end_learning_rate
    options, _, _ = build_run(config)
    half = options.total_steps // 2
    rates = [options.schedule(half + step) for step in (-1, 1)]
    assert rates == pytest.approx([3e-3, 3e-4])


def test_runs_from_before_weight_decay_of_momentum_go_on():
    new = finetune.get_config("Ti/4,digits").to_dict()
    old = finetune.get_config("Ti/4,digits").to_dict()
    del old["optimizer"]["weight_decay"]
    assert differences(old, new) == []
    new["optimizer"]["weight_decay"] = 0.1
    assert differences(old, new) == ["optimizer.weight_decay: 0.0 before, 0.1 now"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_every": 300}, r"keep_every to be 0 or a multiple of checkpoint_every \(200\)"),
        ({"best_by": "tset/top1"}, "Unknown score best_by 'tset/top1'.*Did you mean 'test/top1'"),
        ({"best_by": "test/top1", "eval_every": 150}, "checkpoint_every to be a multiple of eval"),
        ({"num_steps": 3}, "Expected num_steps or num_epochs; got num_steps and num_epochs"),
    ],
)
def test_keys_that_contradict_each_other_are_named(changes, message):
    config = digits.get_config()
    config.update(changes)
    with pytest.raises(ValueError, match=message):
        check_config(config)


def test_a_length_on_the_command_line_replaces_the_one_of_the_file():
    config = parsed("--config.num_steps=7")
    assert config.num_steps == 7
    assert "num_epochs" not in config
    check_config(config)
    config = parsed("--config.num_steps=7", "--config.num_epochs=2.0")
    with pytest.raises(ValueError, match="got num_steps and num_epochs"):
        check_config(config)
