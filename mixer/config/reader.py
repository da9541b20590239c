"""Configs are read without defaults, and a key that nothing reads is an error."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer.errors import suggestion


def base_config() -> ConfigDict:
    """Returns the keys that are not part of the paper's recipe; a config file adds the others."""
    return ConfigDict(
        {
            "mesh": {"data": 1, "fsdp": -1},  # all devices share batch and state
            "accumulation_steps": 1,
            "steps_per_call": 1,
            "input": "host",
            "data_dir": "",  # TFDS's default
            "cache": "none",
            "cache_eval": False,
            "prefetch": 2,
            "init_from": "",
            "log_every": 50,
            "eval_every": 1000,
            "checkpoint_every": 1000,
            "keep_checkpoints": 2,
            "keep_every": 0,
            "best_by": "",
            "few_shot": {"dataset": "", "train_split": "train", "test_split": "test", "shots": 5},
            "watchdog_seconds": 1800,
            "seed": 0,
            "train_fraction": 1.0,
            "label_key": "",
            "replace_damaged": False,
            "num_stripes": 1,
            "polyak_decay": 0.0,
        }
    )


class ConfigReader:
    """A config that records which keys are read. Its sections are readers, and work with `**`."""

    def __init__(self, config: ConfigDict, path: str = ""):
        self._config = config
        self._path = path
        self._read: set[str] = set()
        self._sections: dict[str, ConfigReader] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._config:
            raise ValueError(
                f"Expected the key {self._path + key!r} in the config; got none. A config sets "
                f"every key.{suggestion(key, self._config)}"
            )
        self._read.add(key)
        value = self._config[key]
        if not isinstance(value, ConfigDict):
            return value
        if key not in self._sections:
            self._sections[key] = ConfigReader(value, f"{self._path}{key}.")
        return self._sections[key]

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __contains__(self, key: str) -> bool:
        return key in self._config

    def keys(self) -> Iterator[str]:
        return iter(self._config)

    def _unread(self) -> list[str]:
        names = []
        for key, value in self._config.items():
            if isinstance(value, ConfigDict):
                names += (
                    self._sections.get(key) or ConfigReader(value, f"{self._path}{key}.")
                )._unread()
            elif key not in self._read:
                names.append(self._path + key)
        return names

    def check_all_read(self) -> None:
        """Raises ValueError for keys that nothing has read: they would have no effect."""
        if unread := self._unread():
            keys = ", ".join(map(repr, unread))
            raise ValueError(f"This run does not use these config keys: {keys}. Remove them.")

    def as_json(self) -> dict[str, Any]:
        """Returns the whole config as JSON holds it; see `to_plain`."""
        return to_plain(self._config)


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON holds it: nested dicts, lists for tuples."""
    return json.loads(config.to_json())


def plain_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns overrides of a config, dotted key -> value, with a dict for a section."""
    return {
        key: value.to_dict() if isinstance(value, ConfigDict) else value
        for key, value in overrides.items()
    }


def count_steps(config: ConfigReader | Mapping[str, Any], num_examples: Callable[[], int]) -> int:
    """Returns the number of steps of a run: `num_steps`, or `num_epochs` in steps.

    `num_examples` returns the examples per epoch, and is called only for `num_epochs`.
    """
    if "num_steps" in config:
        return config["num_steps"]
    steps = round(config["num_epochs"] * num_examples() / config["batch_size"])
    if not 1 <= steps < 2**31:
        raise ValueError(
            f"Expected num_epochs to make 1 to {2**31 - 1:,} steps; got {config['num_epochs']}, "
            f"which makes {steps:,} of {config['batch_size']} images."
        )
    return steps
