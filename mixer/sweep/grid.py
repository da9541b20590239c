"""Parses the grid of a sweep into combinations of config values, and names them."""

import itertools
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mixer.errors import suggestion

Overrides = dict[str, Any]  # dotted config key to value


def parse_grid(texts: Sequence[str], config: dict[str, Any]) -> list[Overrides]:
    """Returns the Cartesian product of grids such as "optimizer.learning_rate=0.003,0.01".

    Raises:
      ValueError: a text has another form, a key is repeated or not in the config, or a value does
        not have the type of the config's.
    """
    grid: dict[str, list[Any]] = {}
    config = with_length(config, [text.partition("=")[0] for text in texts])
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or key in grid:
            raise ValueError(f"Expected one --grid=KEY=VALUE,VALUE per KEY; got {text!r}.")
        section, last = find_value(config, key)
        grid[key] = [_parse(key, value, section[last]) for value in values.split(",")]
    return combinations_of(grid)


def combinations_of(grid: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Returns the Cartesian product of a grid, dotted config key -> values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def combination_names(combinations: Sequence[Overrides]) -> list[str]:
    """Returns a folder name such as "learning_rate=0.003" for each combination.

    Different combinations have different names. A key is shortened to its last part if that is
    unambiguous, and special characters in values are percent-encoded.
    """
    keys = {key for combination in combinations for key in combination}
    last_parts = [_last_part(key) for key in keys]
    short = {
        key: _last_part(key) if last_parts.count(_last_part(key)) == 1 else key for key in keys
    }
    return [
        ",".join(
            f"{short[key]}={urllib.parse.quote(str(value), safe='+')}"
            for key, value in sorted(combination.items())
        )
        for combination in combinations
    ]


def parse_seeds(texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the seeds; raises ValueError if they are not distinct whole numbers."""
    seeds = tuple(int(text) for text in texts if text.isdecimal())
    if not texts or len(set(seeds)) < len(texts):
        raise ValueError(
            f"Expected distinct whole numbers, as in --seeds=0,1,2; got {','.join(texts)!r}."
        )
    return seeds


def with_length(config: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Returns the config with the way to say a run's length that is among the keys of a grid.

    It replaces the other one, as on the command line. The value only shows its type.
    """
    for name, other, value in (("num_steps", "num_epochs", 1), ("num_epochs", "num_steps", 1.0)):
        if name in keys and other not in keys and other in config and name not in config:
            return {key: old for key, old in config.items() if key != other} | {name: value}
    return config


def find_value(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Returns the config section that contains a dotted key, and the key's last part.

    Raises:
      ValueError: there is no such key, or it is a section itself.
    """
    section = config
    *path, last = key.split(".")
    for part in path:
        inner = section.get(part)
        if not isinstance(inner, dict):
            raise ValueError(f"Cannot vary {key!r}: the config has no section {part!r}.")
        section = inner
    if last not in section or isinstance(section[last], dict):
        values = [name for name, value in section.items() if not isinstance(value, dict)]
        known = [".".join([*path, name]) for name in values]
        raise ValueError(
            f"Cannot vary {key!r}: the config has no such value.{suggestion(key, known)}"
        )
    return section, last


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _parse(key: str, text: str, default: Any) -> Any:
    """Parses a value to the type of the default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int | float | str):
            return type(default)(text)
    except (KeyError, ValueError):
        pass
    raise ValueError(
        f"Expected values for {key!r} like the config's {default!r}; got {text!r}. Lists and pairs "
        "can be varied with SWEEP in a config file."
    )
