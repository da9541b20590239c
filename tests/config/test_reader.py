"""Config discipline: unread, missing and changed keys."""

import pytest
from ml_collections import ConfigDict

from mixer.config import ConfigReader, count_steps, differences, to_plain


def make_config() -> ConfigDict:
    return ConfigDict({"seed": 1, "area": (0.5, 1.0), "model": {"name": "mixer", "dim": 8}})


def test_a_fully_read_config_passes():
    reader = ConfigReader(make_config())
    assert reader.seed == 1
    assert reader["area"] == (0.5, 1.0)
    assert dict(**reader.model) == {"name": "mixer", "dim": 8}
    reader.check_all_read()


def test_unread_keys_are_named():
    config = make_config()
    config.sede = 3
    config.model.dims = 3
    reader = ConfigReader(config)
    _ = (reader.seed, reader.area, reader.model.name, reader.model.dim)
    with pytest.raises(ValueError, match="does not use these config keys: 'model.dims', 'sede'"):
        reader.check_all_read()


def test_a_whole_section_that_nothing_reads_is_named():
    reader = ConfigReader(make_config())
    _ = (reader.seed, reader.area)
    with pytest.raises(ValueError, match="'model.dim'.*'model.name'"):
        reader.check_all_read()


def test_a_missing_key_is_named_with_the_nearest_one_there():
    reader = ConfigReader(make_config())
    with pytest.raises(ValueError, match="Expected the key 'model.dimm'.*'dim'"):
        _ = reader.model.dimm


def test_differences_name_what_matters_and_skip_what_does_not():
    old = {**to_plain(make_config()), "log_every": 1, "gone": 1}
    new = make_config()
    new.seed = 2
    new.model.dim = 16
    new.log_every = 9
    assert differences(old, to_plain(new)) == [
        "gone: 1 before, 'not set' now",
        "model.dim: 8 before, 16 now",
        "seed: 1 before, 2 now",
    ]
    assert differences(to_plain(new), to_plain(new)) == []


def test_steps_are_counted_from_epochs_unless_the_config_says_them():
    epochs = {"num_epochs": 1.5, "batch_size": 64}
    assert count_steps(epochs, lambda: 1433) == 34  # 33.6
    assert count_steps(ConfigReader(ConfigDict(epochs)), lambda: 1433) == 34

    def never() -> int:
        raise AssertionError("the dataset has been opened")

    assert count_steps({"num_steps": 7, "batch_size": 64}, never) == 7
