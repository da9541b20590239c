"""Config discipline: every key is known and read, and a resumed run has the config it began with.

Configs are `ml_collections.ConfigDict`s, read without defaults: a key that is read
must be in the config, and a key that nothing reads is an error, because it would silently have no
effect.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer.errors import nearest

# What a resumed run may change freely, beside the evaluation: it alters where and when, but no
# update by more than rounding. Where the run began is long past.
_FREE_TO_CHANGE = frozenset(
    {
        "accumulation_steps",
        "best_by",
        "cache",
        "cache_eval",
        "checkpoint_every",
        "data_dir",
        "init_from",
        "keep_checkpoints",
        "keep_every",
        "log_every",
        "mesh.data",
        "mesh.fsdp",
        "model.remat",
        "prefetch",
        "watchdog_seconds",
    }
)


class ConfigReader:
    """A config whose reads are recorded; sections are readers too, and work with `**`."""

    def __init__(self, config: ConfigDict, path: str = ""):
        self._config = config
        self._path = path
        self._read: set[str] = set()
        self._sections: dict[str, ConfigReader] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._config:
            raise ValueError(
                f"The config has no key {self._path + key!r}, which is needed. Nearest key it "
                f"has: {nearest(key, self._config)!r}. Every key must be in the config file."
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

    def _names(self, only_unread: bool) -> list[str]:
        names = []
        for key, value in self._config.items():
            if isinstance(value, ConfigDict):
                section = self._sections.get(key) or ConfigReader(value, f"{self._path}{key}.")
                names += section._names(only_unread)
            elif not (only_unread and key in self._read):
                names.append(self._path + key)
        return names

    def check_all_read(self) -> None:
        """Raises ValueError for keys that nothing has read, naming for each the nearest known."""
        unread = self._names(only_unread=True)
        known = set(self._names(only_unread=False)) - set(unread)
        if unread:
            keys = "; ".join(
                f"{key!r} (nearest known key: {nearest(key, known)!r})" for key in unread
            )
            raise ValueError(f"Nothing reads these config keys: {keys}. Remove or rename them.")


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as JSON holds it: nested dicts, lists for tuples."""
    return json.loads(config.to_json())


def count_steps(config: "ConfigReader | Mapping[str, Any]", num_examples: Callable[[], int]) -> int:
    """Returns the steps of a run: `num_steps` if the config has it, otherwise from `num_epochs`.

    Only for the latter is `num_examples`, of an epoch, called.
    """
    if "num_steps" in config:
        return config["num_steps"]
    return round(config["num_epochs"] * num_examples() / config["batch_size"])


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each key that differs in what matters to the updates of a run."""
    old, new = dict(_flatten(old)), dict(_flatten(new))
    absent = "not there"
    return [
        f"{key}: {old.get(key, absent)!r} before, {new.get(key, absent)!r} now"
        for key in sorted(old.keys() | new.keys())
        if key not in _FREE_TO_CHANGE
        and not key.startswith("eval_")
        and old.get(key, absent) != new.get(key, absent)
    ]


def _flatten(tree: dict[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            yield path + key, value
