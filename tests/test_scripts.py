"""The shell scripts and the command line: --help, clear failures."""

import json
import math
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest
from absl import app
from children import one_device
from PIL import Image
from sklearn.datasets import load_sample_image

ROOT = pathlib.Path(__file__).parent.parent
ENTRY_SCRIPTS = ["gpu_report.sh", "quickstart.sh", "test.sh", "torture.sh"]
TPU_SCRIPTS = [
    "launch_tpu.sh",
    "tpu_worker.sh",
    "in_bucket.sh",
]  # the rest of their tests: tests/launch
SOURCED = ["environment.sh", "tpu_flags.sh", "tpu_slice.sh"]
PYTHON_SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))


def run(*command: str, cwd: pathlib.Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def bare_clone(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of what the scripts need, without an environment."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for path in [*ROOT.glob("requirements*"), ROOT / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
    return tmp_path


def write_program(path: pathlib.Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize("script", [*ENTRY_SCRIPTS, *TPU_SCRIPTS])
def test_help_of_shell_scripts(script, tmp_path):
    result = run("bash", str(ROOT / "scripts" / script), "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"Usage: bash scripts/{script}" in result.stdout


@pytest.mark.parametrize("script", PYTHON_SCRIPTS)
def test_help_of_python_scripts(script, tmp_path):
    result = run(sys.executable, str(ROOT / "scripts" / script), "--help", cwd=tmp_path)
    assert f"python scripts/{script}" in result.stdout


def test_every_script_is_tested_here():
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    assert scripts == {*ENTRY_SCRIPTS, *TPU_SCRIPTS, *SOURCED, *PYTHON_SCRIPTS}


@pytest.mark.slow  # in this process: tests/benchmark
def test_the_input_benchmark_reports_every_recipe(tmp_path):
    folder = tmp_path / "images" / "train" / "photo"
    folder.mkdir(parents=True)
    photo = Image.fromarray(load_sample_image("china.jpg"))
    for number in range(8):
        photo.save(folder / f"{number}.jpg", quality=50 + number)
    result = run(
        *(sys.executable, str(ROOT / "scripts/benchmark_input.py")),
        *(f"--dataset=folder:{tmp_path / 'images'}", "--image_size=32", "--batch_size=8"),
        *("--rounds=2", "--seconds=0.2", "--json"),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    report = json.loads(result.stdout)
    assert [row["recipe"] for row in report["recipes"]] == ["crop+flip", "crop+flip+randaugment"]
    for row in report["recipes"]:
        assert row["ours"] > 10
        assert 0.1 < row["ratio_to_classic_same_ops"] < 10


def convert_weights(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    script = str(ROOT / "scripts/convert_weights.py")
    return run(sys.executable, script, *arguments, cwd=cwd, PYTHONPATH=str(ROOT))


def test_weights_are_shown_and_converted(tmp_path):
    older = str(ROOT / "tests/golden/mixer_tiny_legacy.npz")
    result = convert_weights(older, "tiny.safetensors", cwd=tmp_path)
    assert result.stderr.startswith(f"{older} does not record the type of GELU: the tanh")
    size = (tmp_path / "tiny.safetensors").stat().st_size
    assert result.stdout.splitlines() == [
        f"{older}: .npz in the older naming",
        "  model        of no named size: num_blocks 3, patch_size 4, hidden_dim 24, "
        "tokens_mlp_dim 20, channels_mlp_dim 40",
        "  tokens       16, 4 x 4 for images of 16 x 16 pixels",
        "  classes      7",
        "  parameters   9,667, 9,492 without the head",
        f"Wrote tiny.safetensors, {size:,} bytes.",
    ]
    # Without OUT the same is shown, and nothing is written.
    again = convert_weights("tiny.safetensors", cwd=tmp_path)
    assert again.stdout.splitlines()[0] == "tiny.safetensors: .safetensors in timm's naming"
    assert again.stdout.splitlines()[1:] == result.stdout.splitlines()[1:-1]
    assert os.listdir(tmp_path) == ["tiny.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["damaged.npz", "new.npz"], "damaged.npz. Expected an intact array"),
        (["sound.npz", "other.npz"], "Expected a new file; other.npz exists."),
        (["sound.npz", "new.pkl"], "Expected a file with the suffix .npz or .safetensors"),
        (["sound.npz", "new.npz", "more"], "Expected IN [OUT]; got 3 arguments."),
    ],
)
def test_weights_that_cannot_be_converted(arguments, message, tmp_path, call, monkeypatch):
    content = bytearray((ROOT / "tests/golden/mixer_tiny.npz").read_bytes())
    (tmp_path / "sound.npz").write_bytes(content)
    content[len(content) // 3] ^= 4
    (tmp_path / "damaged.npz").write_bytes(content)
    (tmp_path / "other.npz").write_bytes(b"precious")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError, app.UsageError), match=re.escape(message)):
        call("convert_weights.py", *arguments)
    assert sorted(os.listdir(tmp_path)) == ["damaged.npz", "other.npz", "sound.npz"]
    assert (tmp_path / "other.npz").read_bytes() == b"precious"


@pytest.mark.slow  # the imports: tests/test_import_layers.py
def test_the_benchmark_needs_neither_tensorflow_nor_clu_nor_a_dataset(tmp_path):
    program = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "clu", "array_record"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    result = run(
        *(sys.executable, "-c", program, str(ROOT / "scripts/benchmark.py")),
        *("--variant=S/32", "--mode=infer", "--batch_sizes=1", "--image_size=32,64"),
        *("--seconds=0.01", "--windows=2", "--json"),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        XLA_FLAGS=one_device(),
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["variant"], report["dtype"], report["device"]) == ("S/32", "float32", "cpu")
    assert report["matrix_tflops"] > 0.001
    assert [part["tokens"] for part in report["results"]] == [1, 4]
    assert all(part["best"] == part["rows"][0] for part in report["results"])
    # Multiply-adds of a token: stem and eight blocks; of an image: the head.
    token, image = 512 * 32 * 32 * 3 + 8 * 2 * 512 * (256 + 2048), 512 * 1000
    exponent = math.log((4 * token + image) / (token + image), 4)
    assert report["token_scaling"]["flops_exponent"] == pytest.approx(exponent)


@pytest.mark.slow  # in this process: tests/peers
def test_the_table_of_peers(tmp_path):
    result = run(
        *(sys.executable, "-m", "tests.peers", "--peers=plain_flax"),
        *("--variant=ViT-S/32", "--mode=infer", "--batch_size=1", "--image_size=32"),
        *("--seconds=0.01", "--windows=2"),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        XLA_FLAGS=one_device(),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ViT-S/32, infer, batch 1, float32, 32 x 32, on cpu, ")
    number = r"[\d.e+]+ \([\d.e+]+ to [\d.e+]+\)"
    assert re.search(rf"^plain_flax +{number} +{number} +{number} ", result.stdout, re.MULTILINE)


@pytest.mark.slow  # in this process: tests/rehearsal
def test_the_table_of_communication(tmp_path):
    result = run(
        *(sys.executable, str(ROOT / "scripts/count_communication.py"), "--variant=S/32"),
        *("--devices=1", "--image_size=32", "--batch_per_device=1"),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        XLA_FLAGS=one_device(),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[1].split() == ["1", "0.0", "0.0", "-", "none"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["scripts/benchmark.py", "--batch_sizes=0"],
            "Expected --batch_sizes to be positive integers",
        ),
        (["scripts/benchmark.py", "--variant=ViT-S/33"], "Did you mean 'ViT-S/32'"),
        (["-m", "tests.peers", "--peers=tim"], "Did you mean 'timm'"),
        (
            ["scripts/count_communication.py", "--devices=two"],
            "Expected --devices to be positive integers",
        ),
    ],
)
def test_measurements_that_cannot_be_made_are_refused(command, message):
    result = run(sys.executable, *command, PYTHONPATH=str(ROOT), XLA_FLAGS=one_device())
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("script", ENTRY_SCRIPTS)
def test_an_old_python_is_refused_with_the_versions(script, bare_clone):
    old = write_program(
        bare_clone / "oldpython",
        '#!/bin/sh\ncase "$2" in *print*) echo 3.8;; *) exit 1;; esac\n',
    )
    result = run("bash", f"scripts/{script}", cwd=bare_clone, PYTHON=old)
    assert result.returncode == 1
    assert "expected Python 3.11 or newer" in result.stderr
    assert f"{old} is Python 3.8" in result.stderr
    assert not (bare_clone / ".venv").exists()


def test_no_python_at_all_is_said(bare_clone):
    result = run("bash", "scripts/quickstart.sh", cwd=bare_clone, PYTHON="/nowhere/python")
    assert result.returncode == 1
    assert "got: none of /nowhere/python" in result.stderr


@pytest.mark.slow
def test_a_failed_installation_is_said_and_can_be_repeated(bare_clone):
    for _ in range(2):
        result = run(
            *("bash", "scripts/quickstart.sh"),
            cwd=bare_clone,
            PYTHON=sys.executable,
            PIP_NO_INDEX="1",
            PIP_FIND_LINKS="",
        )
        assert result.returncode == 1
        assert "the installation failed" in result.stderr
        assert "Is a package index reachable" in result.stderr
        assert (bare_clone / ".venv" / "install.log").exists()


def test_a_ready_environment_is_used_at_once(bare_clone):
    # An environment that looks installed, whose Python only says what it was asked to do.
    (bare_clone / ".venv" / "bin").mkdir(parents=True)
    write_program(bare_clone / ".venv" / "bin" / "python", '#!/bin/sh\necho "ran: $*"\n')
    checksum = run(
        *("bash", "-c", "cat requirements*.txt requirements.lock pyproject.toml | cksum"),
        cwd=bare_clone,
    ).stdout
    (bare_clone / ".venv" / "installed-run").write_text(checksum)
    result = run("bash", "scripts/quickstart.sh", "--config.seed=1", cwd=bare_clone)
    assert result.returncode == 0
    assert "Installing" not in result.stdout
    expected = "-m mixer.main --config=configs/digits.py --workdir=runs/digits --config.seed=1"
    assert f"ran: {expected}\n" in result.stdout


def test_help_of_the_program():
    result = run(sys.executable, "-m", "mixer.main", "--help")
    assert "python -m mixer.main --config=FILE --workdir=DIR" in result.stdout
    assert "--workdir" in result.stdout
    assert "tensorflow" not in result.stderr.lower()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=w"], "Expected --config; got none"),
        (["--config=configs/digits.py"], "Expected --workdir; got none"),
        (["--config=configs/digits.py", "--workdir=w", "--config.seed=abc"], "'abc'"),
        (
            ["--config=configs/pretrain_imagenet.py:B/8", "--workdir=w"],
            "Unknown size of pretrain_imagenet.py 'B/8'",
        ),
        (
            ["--config=configs/pretrain_jft300m.py:L/16,14", "--workdir=w", "--config.data_dir=d"],
            "Expected the dataset 'jft300m' in d/jft300m",
        ),
        (["--config=configs/digits.py", "--workdir=w", "extra"], "Expected flags alone; got extra"),
    ],
)
def test_bad_flags_are_refused(flags, message, tmp_path):
    absolute = [flag.replace("=configs", f"={ROOT}/configs") for flag in flags]
    result = run(sys.executable, "-m", "mixer.main", *absolute, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert not (tmp_path / "w").exists()
