"""scripts/evaluate.py and scripts/predict.py as a user calls them."""

import json
import os
import pathlib
import runpy
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest
from absl import flags, logging

from mixer.weights import save_params

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(script: str, *arguments: object, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture
def call(capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Calls a script in this process, which has TensorFlow loaded, and returns what it prints."""

    def call(script: str, *arguments: object) -> str:
        before, verbosity = set(flags.FLAGS), logging.get_verbosity()
        main = runpy.run_path(str(ROOT / "scripts" / script))["main"]
        try:
            _, *others = flags.FLAGS([script, *map(str, arguments)])
            main(*[others] * (script == "predict.py"))
        finally:
            logging.set_verbosity(verbosity)
            for name in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, name)
        return capsys.readouterr().out

    return call


@pytest.fixture
def weights(tmp_path, tiny_mixer) -> pathlib.Path:
    """Weights for digits of 8 x 8 pixels that take everything for a three."""
    params = jax.jit(tiny_mixer.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    params["head"]["bias"] = params["head"]["bias"].at[3].set(np.log(11))
    save_params(tmp_path / "threes.npz", jax.device_get(params))
    return tmp_path / "threes.npz"


@pytest.fixture
def evaluation(weights, data_dir) -> list[str]:
    """The flags that evaluate the weights on the test digits."""
    flags = [f"--weights={weights}", f"--data_dir={data_dir}", "--dataset=digits", "--split=test"]
    return [*flags, "--eval_resize=8", "--batch_size=64"]


def test_the_evaluation_compares_with_what_is_expected(call, evaluation, capsys):
    printed = call("evaluate.py", *evaluation, "--expect=0.1016", "--tolerance=0.0001")
    assert printed == "resmall_crop, 8 of 8 pixels: top-1 10.16%, 37 of 364 images\n"

    capsys.readouterr()
    with pytest.raises(ValueError, match="top-1 of 0.1050 within 0.003; got 0.1016"):
        call("evaluate.py", *evaluation, "--expect=0.105", "--json")
    line = json.loads(capsys.readouterr().out)
    assert (line["top1"], line["correct"], line["count"]) == (37 / 364, 37, 364)
    assert (line["dataset"], line["split"], line["dtype"]) == ("digits", "test", "float32")


def test_the_probe(call, evaluation):
    printed = call("evaluate.py", *evaluation, "--few_shot=25,1", "--crop=resize_crop", "--json")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["shots"] for line in lines] == [25, 1]
    assert 0.55 > lines[0]["top1"] > 0.42 > 0.35 > lines[1]["top1"] > 0.2
    printed = call("evaluate.py", *evaluation, "--few_shot=1", "--crop=resize_crop")
    percent = f"{lines[1]['top1']:.2%}"
    view = "resize_crop, 8 of 8 pixels"
    assert printed == f"{view}: 1-shot top-1 {percent} of 364 images, mean of 3 draws\n"


def test_the_prediction_prints_and_draws(tmp_path, weights, write_image):
    write_image(tmp_path / "a.png", "red")
    flags = [f"--weights={weights}", "--output=drawn.png", "--top=2"]
    result = run("predict.py", "a.png", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["a.png", "   55.00%  class 3"]  # 11 of 20
    assert lines[2].startswith("    5.00%  class ")
    assert lines[3] == "Picture: drawn.png"
    assert (tmp_path / "drawn.png").stat().st_size > 5_000


def test_a_file_that_is_no_image_leaves_the_picture_alone(call, tmp_path, weights, write_image):
    write_image(tmp_path / "a.png", "red")
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "drawn.png").write_bytes(b"an earlier one")
    arguments = [tmp_path / "a.png", tmp_path / "b.png", f"--output={tmp_path / 'drawn.png'}"]
    with pytest.raises(ValueError, match="Expected .*b.png to be a JPEG or PNG image"):
        call("predict.py", *arguments, f"--weights={weights}")
    assert (tmp_path / "drawn.png").read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("predict.py", [], "error: Expected image files, folders or patterns; got none"),
        ("predict.py", ["missing.png"], "error: Expected an image file; there is no file missing"),
        (
            "predict.py",
            ["a.png", "--output=a.png"],
            "Expected --output to differ from the images; got a.png",
        ),
        ("predict.py", ["a.png", "--output=there/b.png"], "in an existing folder"),
        ("predict.py", ["a.png", "--output=b.jpg"], "Expected --output=NAME.png, .csv or .json"),
        (
            "evaluate.py",
            ["--dataset=d", "--few_shot=5,-1"],
            "Expected --few_shot to be positive integers",
        ),
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
