"""Figure 2 (right) in small: what differs between the runs."""

import pytest

from configs import cifar_fractions, digits
from mixer.build import build_without_data
from mixer.config import differences, to_plain


@pytest.mark.parametrize("percent", cifar_fractions.PERCENTS)
@pytest.mark.parametrize("family", cifar_fractions.FAMILIES)
def test_only_the_fraction_differs_and_the_steps_are_equal(family, percent):
    config = cifar_fractions.get_config(f"{family},{percent}")
    whole = cifar_fractions.get_config(family)
    lines = differences(to_plain(whole), to_plain(config))
    assert all("train_fraction" in line for line in lines)
    assert len(lines) == (percent != 100)
    options, _ = build_without_data(config)
    assert options.total_steps == cifar_fractions.STEPS
    assert config.train_fraction == percent / 100


def test_the_recipe_is_that_of_the_digits():
    ours, theirs = (module.get_config("mixer") for module in (cifar_fractions, digits))
    assert to_plain(ours.optimizer) == to_plain(theirs.optimizer)
    assert to_plain(ours.model) == to_plain(theirs.model)


@pytest.mark.parametrize(
    ("what", "message"),
    [("mixr", "Did you mean 'mixer'"), ("mixer,5", "percentage")],
)
def test_typos_are_named(what, message):
    with pytest.raises(ValueError, match=message):
        cifar_fractions.get_config(what)
