"""Config discipline: no unknown key, no unread key, no silent change when a run resumes.

Configs are `ml_collections.ConfigDict`s, read without defaults: a key that is read must be in the
config, and a key that nothing reads is an error, because it would silently have no effect.
`docs/configs.md` explains every key.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer.errors import nearest

# Keys that only operate a run: they change where and when things are computed, and no update by
# more than rounding. A resumed run may change them.
_OPERATION: dict[str, Any] = {
    "mesh": {"data": 1, "fsdp": -1},  # all devices share batch and state
    "accumulation_steps": 1,
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
    "watchdog_seconds": 1800,
}
# Keys that few recipes set. They change the updates, so a resumed run may not change them.
_RARELY_SET: dict[str, Any] = {
    "seed": 0,
    "label_key": "",
    "train_fraction": 1.0,
    "replace_damaged": False,
    "num_stripes": 1,
    "polyak_decay": 0.0,
}


def base_config() -> ConfigDict:
    """Returns the keys that are not part of the paper's recipe; a config file adds the others."""
    return ConfigDict({**_OPERATION, **_RARELY_SET})


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
                f"Expected the key {self._path + key!r} in the config; got none. The nearest key "
                f"there is {nearest(key, self._config)!r}. A config file must set every key."
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
        """Raises ValueError for keys that nothing has read, with the nearest known key of each."""
        unread = self._names(only_unread=True)
        known = set(self._names(only_unread=False)) - set(unread)
        if unread:
            keys = "; ".join(
                f"{key!r} (nearest known key: {nearest(key, known)!r})" for key in unread
            )
            raise ValueError(f"Nothing reads these config keys: {keys}. Remove or rename them.")

    def as_json(self) -> dict[str, Any]:
        """Returns the whole config as JSON holds it; see `to_plain`."""
        return to_plain(self._config)


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON holds it: nested dicts, lists for tuples."""
    return json.loads(config.to_json())


def count_steps(config: ConfigReader | Mapping[str, Any], num_examples: Callable[[], int]) -> int:
    """Returns the number of steps of a run: `num_steps`, or `num_epochs` in steps.

    `num_examples` returns the examples per epoch, and is called only for `num_epochs`.
    """
    if "num_steps" in config:
        if "num_epochs" in config:
            raise ValueError(
                f"Expected num_steps or num_epochs; got num_steps={config['num_steps']} and "
                f"num_epochs={config['num_epochs']}. Set the one that the config file has."
            )
        return config["num_steps"]
    return round(config["num_epochs"] * num_examples() / config["batch_size"])


def check_same_run(meta: Mapping[str, Any], step: int, saved: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint is of another config or of other data than this run.

    `meta` and `saved` are those of the run and of its checkpoint of `step`; both have the `config`
    and the fingerprints of the `data`.
    """
    changes = differences(saved["config"], meta["config"])
    changes += [
        f"data of {split}: {old!r} before, {meta['data'].get(split)!r} now"
        for split, old in saved["data"].items()
        if old != meta["data"].get(split)
    ]
    if changes:
        lines = "\n  ".join(changes)
        raise ValueError(
            f"The checkpoint of step {step} was trained with another config or other data:\n"
            f"  {lines}\nUse another --workdir, or --allow_config_change to continue it anyway."
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for each key that differs and that matters to the updates of a run."""
    free = {"model.remat", *(key for key, _ in _flatten(_OPERATION))}
    # A run from before a key existed used its default.
    old, new = (_RARELY_SET | dict(_flatten(config)) for config in (old, new))
    absent = "not set"
    return [
        f"{key}: {old.get(key, absent)!r} before, {new.get(key, absent)!r} now"
        for key in sorted(old.keys() | new.keys())
        if key not in free
        and not key.startswith("eval_")
        and old.get(key, absent) != new.get(key, absent)
    ]


def _flatten(tree: dict[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            yield path + key, value
