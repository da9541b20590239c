"""What a user names as weights: a published name, a file, a run or its checkpoint, or nothing."""

import pathlib
import shutil
import tarfile

import numpy as np
import pytest

from mixer.weights.load import load_model
from mixer.weights.source import locate
from mixer.weights.weights import load_weights

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def workdir(tmp_path) -> pathlib.Path:
    """A run with the one checkpoint 4, and what a save of step 9 has left when it was killed."""
    with tarfile.open(GOLDEN / "checkpoint.tar.gz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    (tmp_path / "run" / "checkpoints" / "9").mkdir()
    return tmp_path / "run"


def test_every_way_to_name_a_checkpoint(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    step = workdir / "checkpoints" / "4"
    ways = ["run", "./run/", "~/run", "run/checkpoints", "run/checkpoints/4", "run/../run"]
    for way in [*ways, str(workdir), f"{step}/"]:
        assert pathlib.Path(locate(way)).resolve() == step, way
    assert load_weights("~/run/checkpoints").description == "checkpoint of step 4"


def test_every_way_to_name_a_file(tmp_path, monkeypatch):
    shutil.copy(GOLDEN / "mixer_tiny.npz", tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for way in ("tiny.npz", "./tiny.npz", "~/tiny.npz", str(tmp_path / "tiny.npz")):
        assert load_weights(way).image_size == 16


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "as weights; got an empty one"),
        ("  ", "as weights; got an empty one"),
        ("https://example.org/w.npz", "got the URL https://example.org/w.npz. Download the file"),
        (
            "https://storage.googleapis.com/mixer_models/sam/Mixer-B_16.npz",
            "Download the file first. Its published name, sam/Mixer-B_16, does so.",
        ),
        ("http://localhost/run", "got the URL http://localhost/run"),
        ("run/checkpoints/7", "complete checkpoint in .*/run/checkpoints, step 4; got step 7"),
        ("run/checkpoints/9", "complete checkpoint in .*/run/checkpoints, step 4; got step 9"),
        ("empty", "no complete checkpoint in .*empty. Expected a workdir that"),
        ("parts", "holds weights files; name one: config.json"),
        ("hub", "name one: model.safetensors, pytorch_model.bin"),
        ("runs/nowhere", "no weights 'runs/nowhere'. Expected a name in the catalogue"),
        ("imagenet1k/Mixer-B16", "Did you mean 'imagenet1k/Mixer-B_16'"),
        ("nowhere.pth", "a weights file at .*nowhere.pth; got nothing. Check the path"),
        ("run/config.json", "Other formats are not supported"),
    ],
)
def test_what_is_none_is_explained(source, message, workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "parts", "hub"):
        (tmp_path / name).mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / "hub" / name).write_bytes(b"")
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / "parts" / name).write_bytes(b"")
    message = message.replace("config.json", "model-00001-of-00002.safetensors, model.safet")
    with pytest.raises(ValueError, match=message):
        load_model(source)


def test_a_published_file_that_is_damaged_says_what_to_remove(tmp_path, monkeypatch):
    path = tmp_path / "mixer_models" / "sam" / "Mixer-B_16.npz"
    path.parent.mkdir(parents=True)
    arrays = dict(np.load(GOLDEN / "mixer_tiny.npz"))
    arrays["head/bias"][0] = np.nan
    np.savez(path, **arrays)
    monkeypatch.setattr("mixer.weights.weights.fetch", lambda name: path)
    with pytest.raises(ValueError, match=f"head/bias .1 of 7.*To download it again, remove {path}"):
        load_weights("sam/Mixer-B_16")
