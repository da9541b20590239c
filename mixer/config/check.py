"""What a config must be before it runs, and what a resumed run may change."""

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixer.config.keys import KEYS, find_key
from mixer.config.reader import base_config
from mixer.errors import suggestion, unknown_name

_SECTIONS = {path.partition(".")[0] for path in KEYS if "." in path}

# What runs had from before a key existed, besides the values of `base_config`.
_BEFORE = {"optimizer.weight_decay": 0.0}  # of `momentum`; `adam` always had it

# With all of `eval_*` but `eval_every`: what a score of given parameters depends on.
_EVALUATED = ("dataset", "data_dir", "label_key", "image_size", "loss", "replace_damaged")


def flatten(config: Mapping[str, Any] | ConfigDict, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each key of a nested config, as `optimizer.name`, with its value.

    An empty section is a value.
    """
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict) and value:
            yield from flatten(value, f"{path}{key}.")
        else:
            yield path + str(key), value


def check_config(config: Mapping[str, Any] | ConfigDict) -> None:
    """Raises ValueError with a line for each key that is unknown, missing or out of its range.

    If there is none: ValueError for keys that contradict each other.
    """
    values = dict(flatten(config))
    problems = [*_problems_of_values(values), *_missing_keys(values)]
    if problems:
        raise ValueError("\n  ".join(problems))
    _check_relations(values)


def _problems_of_values(values: Mapping[str, Any]) -> Iterator[str]:
    family = values.get("model.name")
    # Which models others have added, and their fields, `build_model` knows.
    is_added = isinstance(family, str) and family and not KEYS["model.name"].allows(family)
    for path, value in values.items():
        key = find_key(path)
        if is_added and (path == "model.name" or (key is None and path.startswith("model."))):
            continue
        if path in _SECTIONS:
            if isinstance(value, Mapping | ConfigDict):
                continue  # it is empty
            yield f"Expected {path} to be a section of keys; got {value!r}."
        elif key is None:
            yield f"Unknown config key {path!r}.{suggestion(path, KEYS)}"
        elif not key.allows(value):
            hint = suggestion(str(value), key.names())
            yield f"Expected {path} to be {key.expected()}; got {value!r}.{hint}"


def _missing_keys(values: Mapping[str, Any]) -> Iterator[str]:
    for path, key in KEYS.items():
        section = path.partition(".")[0] if "." in path else ""
        is_reported = section in values  # as no section
        is_needed = not key.is_optional or values.get("model.name") in key.needed_by
        if path not in values and is_needed and not is_reported and "NAME" not in path:
            yield f"Expected the key {path!r} in the config; got none. A config sets every key."
    lengths = [name for name in ("num_steps", "num_epochs") if name in values]
    if len(lengths) != 1:
        yield f"Expected num_steps or num_epochs; got {' and '.join(lengths) or 'neither'}."


def _check_relations(values: Mapping[str, Any]) -> None:
    every = values["checkpoint_every"]
    if values["keep_every"] % every:
        raise ValueError(
            f"Expected keep_every to be 0 or a multiple of checkpoint_every ({every}); got "
            f"{values['keep_every']}."
        )
    best_by = values["best_by"]
    splits = [key.partition(".")[2] for key in values if key.startswith("eval_splits.")]
    if values["few_shot.dataset"]:
        if "few_shot" in splits:
            raise ValueError(
                "Expected another name than few_shot in eval_splits: it is that of the probe's "
                "scores."
            )
        splits.append("few_shot")
    scores = [f"{split}/top1" for split in splits]
    if best_by and best_by not in scores:
        raise unknown_name("score best_by", best_by, scores)
    if best_by and every % values["eval_every"]:
        raise ValueError(
            "Expected checkpoint_every to be a multiple of eval_every, as best_by chooses among "
            f"checkpoints by their evaluation; got checkpoint_every={every} and "
            f"eval_every={values['eval_every']}."
        )


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
    # A run from before a key existed used the value that it has in every config.
    defaults = dict(flatten(base_config())) | _BEFORE
    old, new = defaults | dict(flatten(old)), defaults | dict(flatten(new))
    absent = "not set"
    return [
        f"{key}: {old.get(key, absent)!r} before, {new.get(key, absent)!r} now"
        for key in sorted(old.keys() | new.keys())
        if not _is_free(key) and old.get(key, absent) != new.get(key, absent)
    ]


def same_evaluation(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """True if two configs evaluate the same images in the same way, whatever trained the model."""
    defaults = dict(flatten(base_config()))
    old, new = (
        {
            key: value
            for key, value in (defaults | dict(flatten(config))).items()
            if key in _EVALUATED or (key.startswith(("eval_", "few_shot.")) and key != "eval_every")
        }
        for config in (old, new)
    )
    return old == new


def _is_free(path: str) -> bool:
    key = find_key(path)
    return path.startswith("eval_") or (key is not None and key.is_free)
