"""What an installation has: packages, commands, configs; and the first minutes with it."""

import ast
import json
import os
import pathlib
import re
import shutil
import sys
import tomllib

import children
import numpy as np
import pytest
from PIL import Image

import mixer
from mixer.console import SCRIPTS
from mixer.runtime.command import load_config_file
from mixer.shipped import is_installed, shipped

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_installed():
    packages = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.rglob("mixer/**/__init__.py")
    }
    beside = {"mixer.configs", "mixer.docs", "mixer.scripts"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages | beside
    known = set(PROJECT["tool"]["setuptools"]["package-data"])
    data = [p for p in (ROOT / "mixer").rglob("*.*") if p.suffix not in (".py", ".pyc")]
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in data} <= known


def test_every_command_runs_a_file_that_is_there():
    assert set(PROJECT["project"]["scripts"]) == {*SCRIPTS, "mixer-train"}
    assert not is_installed()
    for path in [*SCRIPTS.values(), "docs/results.json", "docs/table3_throughput.jsonl"]:
        assert shipped(path) == ROOT / path
        assert (ROOT / path).is_file()


def test_our_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config_file("configs/digits.py").__file__ == str(ROOT / "configs" / "digits.py")
    with pytest.raises(
        ValueError, match="no file 'configs/digit.py' in .*mean 'configs/digits.py'"
    ):
        load_config_file("configs/digit.py")
    for path in ("digits.py", "mixer/main.py", "a/configs/digits.py"):
        with pytest.raises(ValueError, match=f"there is no file '{path}'"):
            load_config_file(path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "digits.py").write_text("def get_config(): return 7")
    assert load_config_file("configs/digits.py").get_config() == 7  # their own comes first


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder `bin` of an environment with nothing but a wheel of this project."""
    folder = tmp_path_factory.mktemp("installed")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)  # a build writes beside its source
    run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    pip = (folder / "venv" / "bin" / "python", "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir=dist", "./source", cwd=folder)
    (wheel,) = (folder / "dist").iterdir()
    assert wheel.name == f"mixer-{mixer.__version__}-py3-none-any.whl"
    shutil.rmtree(folder / "source")
    run(*pip, "install", "-c", ROOT / "requirements.lock", wheel, cwd=folder)
    return folder / "venv" / "bin"


def run(*command: object, cwd: pathlib.Path) -> str:
    """Returns what a command prints, in an environment that knows nothing of the clone."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = children.run([*map(str, command)], cwd=cwd, env=variables, limit=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_from_an_empty_environment_to_a_prediction(installed, tmp_path):
    """Installs the wheel, trains, predicts as a command and in Python, all in another folder."""
    for name in (*SCRIPTS, "mixer-train"):
        assert "--" in run(installed / name, "--help", cwd=tmp_path)
    short = [f"--config.{key}" for key in ("num_epochs=2", "optimizer.warmup_steps=10")]
    train = (installed / "mixer-train", "--config=configs/digits.py", "--workdir=runs/digits")
    out = run(*train, *short, cwd=tmp_path)
    assert "Finished 45 steps" in out
    assert json.loads((tmp_path / "runs/digits/environment.json").read_text())["commit"] == ""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 30, 20, 3), np.uint8)
    for number in range(2):
        Image.fromarray(pixels[number]).save(tmp_path / f"{number}.png")
    images = ("0.png", "1.png")
    flags = ("--weights=runs/digits", "--format=json")
    found = run(installed / "mixer-predict", *images, *flags, cwd=tmp_path)
    program = (
        "import json, sys, mixer\n"
        "assert not {'jax', 'tensorflow', 'numpy'} & set(sys.modules)\n"
        "loaded = mixer.load('runs/digits')\n"
        "assert 'tensorflow' not in sys.modules\n"
        f"found = loaded.predict({images})\n"
        "print(json.dumps([[p.classes, p.probabilities] for p in found]))"
    )
    shutil.copy(tmp_path / "0.png", tmp_path / "photo.png")
    (lines, _) = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    classes = ast.literal_eval(run(installed / "python", "-c", lines, cwd=tmp_path))
    assert list(classes) == json.loads(found)[0]["classes"]
    in_python = json.loads(run(installed / "python", "-c", program, cwd=tmp_path))
    assert [[row["classes"], row["probabilities"]] for row in json.loads(found)] == in_python
    table = run(installed / "mixer-reproduce", "plan", "table3", "--print_commands", cwd=tmp_path)
    assert "configs/pretrain_imagenet.py:B/16" in table
