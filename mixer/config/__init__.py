"""Config discipline: no unknown key, no value out of its range, no silent change on resume.

A config is an `ml_collections.ConfigDict` that sets every key of the table in
`mixer/config/keys.py`, apart from those marked optional.
"""

from mixer.config.check import check_config, check_same_run, differences, same_evaluation
from mixer.config.reader import ConfigReader, base_config, count_steps, plain_overrides, to_plain

__all__ = [
    "ConfigReader",
    "base_config",
    "check_config",
    "check_same_run",
    "count_steps",
    "differences",
    "plain_overrides",
    "same_evaluation",
    "to_plain",
]
