"""scripts/evaluate.py and scripts/predict.py as a user calls them."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile

import children
import jax
import numpy as np
import pytest
from absl import flags

from mixer.weights import save_params

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(script: str, *arguments: object, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return children.run(command, cwd=cwd, env=environment)


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
    assert printed == "digits, test, resmall_crop, 8 of 8 pixels: top-1 10.16%, 37 of 364 images\n"

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
    view = "digits, test, resize_crop, 8 of 8 pixels"
    assert printed == f"{view}: 1-shot top-1 {percent} of 364 images, mean of 3 draws\n"


def test_the_prediction_prints_and_draws(tmp_path, weights, write_image, call, monkeypatch):
    write_image(tmp_path / "a.png", "red")
    monkeypatch.chdir(tmp_path)
    flags = [f"--weights={weights}", "--output=drawn.png", "--top=2"]
    lines = call("predict.py", "a.png", *flags).splitlines()
    assert lines[:2] == ["a.png", "   55.00%  class 3"]  # 11 of 20
    assert lines[2].startswith("    5.00%  class ")
    assert lines[3] == "Picture: drawn.png"
    assert (tmp_path / "drawn.png").stat().st_size > 5_000


def test_a_file_that_is_no_image_leaves_the_picture_alone(call, tmp_path, weights, write_image):
    write_image(tmp_path / "a.png", "red")
    (tmp_path / "b.png").write_bytes(b"text")
    (tmp_path / "drawn.png").write_bytes(b"an earlier one")
    arguments = [tmp_path / "a.png", tmp_path / "b.png", f"--output={tmp_path / 'drawn.png'}"]
    with pytest.raises(ValueError, match="Expected .*b.png to be an image"):
        call("predict.py", *arguments, f"--weights={weights}")
    assert (tmp_path / "drawn.png").read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("predict.py", [], "Expected image files, folders or patterns; got none"),
        ("predict.py", ["missing.png"], "Expected an image file; there is no file missing"),
        (
            "predict.py",
            ["a.png", "--output=a.png"],
            "Expected --output to differ from the images; got a.png",
        ),
        (
            "predict.py",
            ["a.png", "--output=n.csv", "--class_names=./n.csv"],
            "Expected --output to differ from the weights and the class names; got n.csv. Choose",
        ),
        ("predict.py", ["a.png", "--output=d.png"], "existing folder; got d.png, a folder. Choose"),
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
def test_bad_flags_are_refused_at_once(script, arguments, message, tmp_path, call, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"an image")
    (tmp_path / "n.csv").write_bytes(b"names")
    (tmp_path / "d.png").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, flags.Error), match=re.escape(message)):
        call(script, *arguments, "--weights=w.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "d.png", "n.csv"]
    assert (tmp_path / "a.png").read_bytes() == b"an image"
    assert (tmp_path / "n.csv").read_bytes() == b"names"


def test_a_folder_becomes_a_table_with_true_classes(tmp_path, weights, write_image, call):
    for name, colour in (("3/a.png", "red"), ("3/b.png", "blue"), ("7/=c.png", "red")):
        write_image(tmp_path / "test" / name, colour)
    (tmp_path / "test" / "3" / "notes.txt").write_text("")
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbf" + "".join(f"{n}\r\n" for n in range(10)).encode())
    flags = [f"--weights={weights}", f"--class_names={names}", "--top=1"]
    for kind in ("csv", "json"):
        output = tmp_path / f"p.{kind}"
        printed = call("predict.py", tmp_path / "test", *flags, f"--output={output}")
        assert printed.endswith(f"named after a class\nTable: {output}\n")
        assert "top-1 66.67%, 2 of 3 images" in printed
        table = call(
            "predict.py", tmp_path / "test", *flags, f"--format={kind}", f"--output={output}"
        )
        assert table == output.read_text()
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text().splitlines()))
    assert [(row["true_class"], row["class_1"]) for row in rows] == [
        ("3", "3"),
        ("3", "3"),
        ("7", "3"),
    ]
    assert {float(row["probability_1"]) for row in rows} == {0.55}
    assert sorted(path.name for path in tmp_path.glob("p*")) == ["p.csv", "p.json"]


@pytest.mark.slow
def test_names_are_printed_on_any_terminal(tmp_path, weights, write_image):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_image(folder / "a\nb.png", "red")
    (tmp_path / "names.txt").write_text("".join(f"Gr\u00fcn {n}\n" for n in range(10)), "utf-8")
    variables = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    variables["MPLBACKEND"] = "module://not_installed"
    command = [sys.executable, ROOT / "scripts" / "predict.py", folder, f"--weights={weights}"]
    result = subprocess.run(
        [*command, "--class_names=names.txt", "--top=1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    path, name, picture = result.stdout.decode("ascii").splitlines()
    assert path.endswith(r"caf\udce9/a\nb.png")
    assert name == r"   55.00%  Gr\xfcn 3"
    assert picture == "Picture: predictions.png"
    assert b"does not record the type of GELU: the tanh approximation" in result.stderr


@pytest.fixture
def untrained(tmp_path, tiny_mixer) -> pathlib.Path:
    params = jax.jit(tiny_mixer.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
    save_params(tmp_path / "untrained.npz", jax.device_get(params))
    return tmp_path / "untrained.npz"


def test_a_head_of_zeros_is_refused(call, untrained, evaluation, tmp_path, write_image):
    write_image(tmp_path / "a.png", "red")
    flags = [f"--weights={untrained}", *evaluation[1:]]
    with pytest.raises(ValueError, match="trained head; got one of zeros for 10 classes"):
        call("evaluate.py", *flags)
    with pytest.raises(ValueError, match="trained head; got one of zeros for 10 classes"):
        call("predict.py", tmp_path / "a.png", f"--weights={untrained}")
    assert "1-shot top-1" in call("evaluate.py", *flags, "--few_shot=1")


def test_flags_that_are_empty_are_not_left_out(call, evaluation):
    for flag, message in (
        ("--crop=", "Expected at least one crop"),
        ("--dataset=", "Expected --dataset=NAME"),
        ("--split=", "got an empty --split"),
        ("--few_shot=", "Expected --few_shot to be positive integers"),
        ("--weights=", "as weights; got an empty one"),
        ("--class_names=", "No such file or directory|Is a directory"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            call("evaluate.py", *evaluation, flag)


def test_a_conversion_says_what_the_file_does_not_record(call, weights, tmp_path):
    with tarfile.open(ROOT / "tests" / "golden" / "checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    for source, output, note in (
        (tmp_path / "run", "w.npz", "--class_names=FILE --crop=resize_crop --eval_resize=16"),
        (weights, "w.safetensors", "bytes."),
    ):
        printed = call("convert_weights.py", source, tmp_path / output)
        assert printed.rstrip().endswith(note)
        assert (tmp_path / output).is_file()


def test_every_family_converts_to_what_it_has_a_naming_in(call, tmp_path, capsys):
    golden = ROOT / "tests" / "golden"
    for name in ("vit_tiny.npz", "timm_gmlp_tiny.safetensors", "bit_tiny.npz"):
        printed = call("convert_weights.py", golden / name, tmp_path / name, "--overwrite")
        assert f"Wrote {tmp_path / name}, " in printed
        assert "\n  classes      10\n" in printed
    printed = call("convert_weights.py", golden / "vit_tiny.npz", tmp_path / "v.safetensors")
    assert printed.endswith(" bytes.\n")  # which records the GELU
    printed = call("convert_weights.py", tmp_path / "v.safetensors", tmp_path / "exact.npz")
    assert printed.endswith(" bytes.\n")  # tanh, as usual
    exact = [tmp_path / "v.safetensors", tmp_path / "exact.npz", "--overwrite", "--gelu=exact"]
    assert call("convert_weights.py", *exact).endswith("does not record: --gelu=exact\n")
    written = sorted(os.listdir(tmp_path))
    for source, output, message in (
        ("bit_tiny.npz", "b.safetensors", "Expected .npz for the weights of a BiT-ResNet; got .s"),
        ("bit_tiny.npz", "b.npz --gelu=tanh", "of BitResNet, which has none. Leave out --gelu"),
        (
            "vit_tiny.npz",
            "v.npz --image_size=31",
            "multiples of 8. Expected 8, 16, 24, ...; got 31",
        ),
        ("timm_gmlp_tiny.safetensors", "g.npz --image_size=64", "A gMLP has one resolution"),
    ):
        output, *flags = output.split()
        with pytest.raises(ValueError, match=message):
            call("convert_weights.py", golden / source, tmp_path / output, *flags)
    assert sorted(os.listdir(tmp_path)) == written
