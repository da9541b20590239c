"""The grid of a sweep: combinations of config values, and their names."""

import itertools
import urllib.parse
from collections.abc import Sequence
from typing import Any

from mixer.errors import nearest

Overrides = dict[str, Any]  # dotted config key to value


def parse_grid(texts: Sequence[str], config: dict[str, Any]) -> list[Overrides]:
    """Returns the product of grids such as "optimizer.learning_rate=0.003,0.01".

    Raises:
      ValueError: not of that form, a key that the config does not have or that comes twice, or
        values that are not of the type of the config's.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or key in grid:
            raise ValueError(f"Expected --grid=KEY=VALUE,VALUE once for each KEY; got {text!r}.")
        section, last = find_value(config, key)
        grid[key] = [_parse(key, value, section[last]) for value in values.split(",")]
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def combination_names(combinations: Sequence[Overrides]) -> list[str]:
    """Returns a folder name for each, "learning_rate=0.003"; equal only for equal combinations.

    A key goes by its last part, unless it shares that with another one. What a path or the name
    itself could misread in a value is percent-encoded.
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
    """Returns the seeds; raises ValueError unless they are different whole numbers."""
    if not texts or len(set(texts)) < len(texts) or not all(text.isdecimal() for text in texts):
        raise ValueError(
            f"Expected different whole numbers as --seeds=0,1,2; got {','.join(texts)!r}."
        )
    return tuple(int(text) for text in texts)


def find_value(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Returns the section of the config that holds a dotted key, and its name there.

    Raises:
      ValueError: there is no such key, or it is itself a section.
    """
    section = config
    *path, last = key.split(".")
    for part in path:
        inner = section.get(part)
        if not isinstance(inner, dict):
            raise ValueError(f"The config has no section {part!r} of {key!r} to vary.")
        section = inner
    if last not in section or isinstance(section[last], dict):
        values = [name for name, value in section.items() if not isinstance(value, dict)]
        known = [".".join([*path, name]) for name in values]
        raise ValueError(
            f"The config has no value {key!r} to vary. Nearest key: {nearest(key, known)!r}."
        )
    return section, last


def _last_part(key: str) -> str:
    return key.rpartition(".")[2]


def _parse(key: str, text: str, default: Any) -> Any:
    """Returns the value that a text stands for, of the type of the default."""
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int | float | str):
            return type(default)(text)
    except (KeyError, ValueError):
        pass
    raise ValueError(
        f"Expected values for {key!r} like the config's {default!r}; got {text!r}. Lists and pairs "
        "can be varied by the sweep() of a config file."
    )
