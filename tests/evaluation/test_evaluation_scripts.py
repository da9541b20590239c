"""scripts/evaluate.py and scripts/predict.py as a user calls them."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from mixer.weights import save_params

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(script: str, *arguments: object, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def weights(tmp_path, tiny_mixer) -> pathlib.Path:
    """Weights for digits of 8 x 8 pixels that take everything for a three."""
    params = tiny_mixer.init(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    params["head"]["bias"] = params["head"]["bias"].at[3].set(np.log(11))
    save_params(tmp_path / "threes.npz", jax.device_get(params))
    return tmp_path / "threes.npz"


def test_the_evaluation_compares_with_what_is_expected(tmp_path, weights, data_dir):
    flags = [f"--weights={weights}", "--dataset=digits", "--split=test", "--eval_resize=8"]
    flags += [f"--data_dir={data_dir}", "--batch_size=64"]
    # 37 of the 364 test images are threes: 0.10165
    result = run("evaluate.py", *flags, "--expect=0.1016", "--tolerance=0.0001", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "resmall_crop, 8 of 8 pixels: top-1 10.16%, 37 of 364 images\n"

    result = run("evaluate.py", *flags, "--expect=0.105", "--json", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.endswith(
        "error: Expected a top-1 of 0.1050, give or take 0.003; got 0.1016.\n"
    )
    line = json.loads(result.stdout)
    assert (line["top1"], line["correct"], line["count"]) == (37 / 364, 37, 364)


def test_the_probe_as_json(tmp_path, weights, data_dir):
    flags = [f"--weights={weights}", "--dataset=digits", "--split=test", "--eval_resize=8"]
    flags += [f"--data_dir={data_dir}", "--crop=resize_crop", "--few_shot=1,25", "--json"]
    result = run("evaluate.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["shots"] for line in lines] == [1, 25]
    assert 0.2 < lines[0]["top1"] < 0.35 < 0.42 < lines[1]["top1"] < 0.55


def test_the_prediction_prints_and_draws(tmp_path, weights, write_image):
    write_image(tmp_path / "a.png", "red")
    flags = [f"--weights={weights}", "--output=drawn.png", "--top=2"]
    result = run("predict.py", "a.png", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["a.png", "   55.00%  class 3"]  # 11 of 20
    assert lines[2].startswith("    5.00%  class ")
    assert lines[3] == "Picture: drawn.png"
    drawn = (tmp_path / "drawn.png").read_bytes()

    (tmp_path / "b.png").write_bytes(b"text")
    result = run("predict.py", "a.png", "b.png", *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: Expected a JPEG or PNG image in b.png")
    assert result.stdout == ""
    assert (tmp_path / "drawn.png").read_bytes() == drawn


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("predict.py", [], "error: Expected image files; got none"),
        ("predict.py", ["missing.png"], "error: Expected an image file; there is no file missing"),
        ("predict.py", ["a.png", "--output=a.png"], "it would overwrite a.png"),
        ("predict.py", ["a.png", "--output=there/b.png"], "in a folder that exists"),
        ("predict.py", ["a.png", "--output=b.jpg"], "Expected --output=NAME.png"),
        ("evaluate.py", ["--dataset=d", "--few_shot=5,-1"], "Expected --few_shot as 1,5,10,25"),
        (
            "evaluate.py",
            ["--dataset=d", "--few_shot=1,5", "--expect=0.5"],
            "Expected one result to compare with --expect; got 2",
        ),
        ("evaluate.py", ["--dataset=d", "--expect=76.6"], "expect=76.6"),
    ],
)
def test_bad_flags_are_refused_at_once(script, arguments, message, tmp_path):
    (tmp_path / "a.png").write_bytes(b"an image")
    result = run(script, *arguments, "--weights=w.npz", cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"an image"
