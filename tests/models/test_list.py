"""The list of models, `python -m mixer.models`."""

import json
import sys

import pytest
from absl import flags
from children import run

from mixer.models import named, sizes, title_of
from mixer.models.__main__ import describe
from mixer.models.mixer import VARIANTS

for _flag in ("image_sizes", "num_classes", "json"):  # other tests define flags of these names
    delattr(flags.FLAGS, _flag)


@pytest.mark.parametrize("size", sizes())
def test_every_size_has_a_name(size):
    assert named(title_of(*size)) == size


def test_a_size_alone_is_a_mixers_and_what_is_similar_is_proposed():
    assert named("B/16") == ("mixer", "B/16")
    assert named("ViT-B/16") == ("vit", "B/16")
    for wrong, meant in (("ViT-B16", "ViT-B/16"), ("BiT-R50", "BiT-R50x1"), ("R50x1", "")):
        with pytest.raises(ValueError, match=f"Unknown model '{wrong}'.*{meant}"):
            named(wrong)


def mixer_gflops(tokens: int, tokens_mlp_dim: int) -> float:
    """Returns those of Mixer-S/32, by hand."""
    stem, head = tokens * 32 * 32 * 3 * 512, 512 * 1000
    token_mixing, channel_mixing = 2 * 512 * tokens * tokens_mlp_dim, 2 * tokens * 512 * 2048
    return 2 * (stem + 8 * (token_mixing + channel_mixing) + head) / 1e9


def test_a_row_of_mixer():
    row = describe("mixer", "S/32", 1000, (224, 448, 336))
    assert row == {
        "model": "Mixer-S/32",
        "patches": 49,
        "sequence_length": 49,
        "parameters": 19_104_624,
        "parameters_without_head": 18_591_624,
        # Appendix C: K x K copies of the token-mixing MLPs, so K is a whole number.
        "gflops": {224: mixer_gflops(49, 256), 448: mixer_gflops(196, 4 * 256), 336: None},
        "differs": "",
    }


def test_rows_of_the_others():
    vit = describe("vit", "S/32", 10, (224, 100))
    assert (vit["patches"], vit["sequence_length"]) == (49, 50)
    assert vit["parameters"] - vit["parameters_without_head"] == 384 * 10 + 10
    tokens, width = 50, 384
    block = tokens * 12 * width**2 + 2 * tokens**2 * width  # projections and MLP; attention
    products = 49 * 32 * 32 * 3 * width + 12 * block + width * 10
    assert vit["gflops"] == {224: 2 * products / 1e9, 100: None}
    bit = describe("bit", "R50x1", 1000, (224,), version="v1")
    assert (bit["model"], bit["patches"], bit["sequence_length"]) == ("BiT-R50x1 v1", None, None)
    assert bit["parameters"] == 25_557_032
    assert bit["gflops"][224] == pytest.approx(8.18, abs=0.005)


def test_a_size_that_is_not_the_papers_is_said(monkeypatch):
    monkeypatch.setitem(VARIANTS, "S/32", {**VARIANTS["S/32"], "hidden_dim": 256})
    differs = describe("mixer", "S/32", 1000, (224,))["differs"]
    assert differs == "hidden_dim is 256, in the paper 512, params_millions is 9, in the paper 19"


@pytest.mark.slow
def test_the_command():
    command = [sys.executable, "-m", "mixer.models", "S/32", "ViT-S/32"]
    lines = run(command).stdout.splitlines()
    assert lines[1].split() == [
        "Mixer-S/32",
        "49",
        "49",
        "19,104,624",
        "18,591,624",
        "2.00",
        "10.48",
    ]
    assert lines[2].split() == ["ViT-S/32", "49", "50", "22,878,952", "22,493,952", "2.29", "9.54"]
    assert lines[4] == "As in the paper's Table 1: Mixer-S/32"
    assert lines[5].startswith("Mixer-S/32 : ViT-S/32  0.83 of the parameters")
    json_lines = run([*command, "--json"])
    assert [json.loads(line)["patches"] for line in json_lines.stdout.splitlines()] == [49, 49]
