"""The catalogue agrees with the model; its files are found, or an error says where to put them."""

import collections
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_unless
from file_server import FileServer

from mixer.models import MODELS, build_model
from mixer.weights.catalogue import CATALOGUE, Published, fetch
from mixer.weights.load import load_model

NAME = "imagenet21k/Mixer-B_16"
PLACE = "mixer_models/imagenet21k/Mixer-B_16.npz"
PAGE = b"<!DOCTYPE html><html><body>Please sign in.</body></html>"


def npz(size: int) -> bytes:
    """Returns an archive of `size` bytes with one array."""
    file = io.BytesIO()
    np.savez(file, zeros=np.zeros(size - 300, np.uint8))
    room = size - len(file.getvalue())
    file = io.BytesIO()
    np.savez(file, zeros=np.zeros(size - 300 + room, np.uint8))
    assert len(file.getvalue()) == size
    return file.getvalue()


CONTENT = npz(2**20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server in place of the one that publishes `NAME`."""
    server = FileServer(CONTENT)
    entry = dataclasses.replace(CATALOGUE[NAME], url=f"{server.url}/{PLACE}", mebibytes=1.0)
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The cache, empty, with no other folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MIXER_WEIGHTS", raising=False)
    return tmp_path / "cache" / "mixer" / "weights"


def put(path: pathlib.Path, content: bytes = CONTENT) -> pathlib.Path:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def abstract_params(entry: Published, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arrays of a published model, by name, as abstract ones."""
    size = re.sub("/8$", "/16", entry.variant)
    fields = dict(MODELS[entry.family][1][size])
    if size != entry.variant:
        fields["patch_size"] = 8
    if "imagenet21k/ViT" in entry.url:  # the hidden layer of the ViT paper
        fields["representation_size"] = fields["hidden_dim"]
    model = build_model(entry.family, num_classes=entry.data[1], **fields)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return flax.traverse_util.flatten_dict(params, sep="/")


@pytest.mark.parametrize(
    "name",
    slow_unless(
        lambda name: "B_16" in name or "R50x1" in name,
        [name for name, entry in CATALOGUE.items() if entry.mebibytes],
    ),
)
def test_published_sizes_are_those_of_the_models_parameters_in_a_zip_file(name):
    entry = CATALOGUE[name]
    arrays = abstract_params(entry, entry.recipe.image_size)
    num_bytes = sum(4 * array.size for array in arrays.values())
    # Of each array: headers of 30 and 46 bytes with its name, and its own of 128; 22 at the end.
    headers = sum(30 + 46 + 2 * len(f"{key}.npy") + 128 for key in arrays) + 22
    if name == "sam/ViT-S_16":  # with the optimizer's two moments
        assert 3 * num_bytes < entry.mebibytes * 2**20 < 3.01 * num_bytes
        return
    assert num_bytes < entry.mebibytes * 2**20 < 1.01 * num_bytes
    tolerance = 0.011 if name == "sam/ViT-B_16" else 0.001  # listed as "330.3 MiB"
    assert abs(round((num_bytes + headers) / 2**20, 2) - entry.mebibytes) < tolerance


def test_the_catalogue():
    families = collections.Counter(entry.family for entry in CATALOGUE.values())
    assert families == {
        "mixer": 11 + 6,
        "vit": 6 + 7 + 5 + 6 + 6 + 1 + 3,
        "bit": 12 + 10,
        "gmlp": 1,
    }
    assert len({entry.relative_path for entry in CATALOGUE.values()}) == len(CATALOGUE)
    assert CATALOGUE["gsam/Mixer-S_8"].variant == "S/8"
    assert CATALOGUE[NAME].url == f"https://storage.googleapis.com/{PLACE}"
    timm = CATALOGUE["timm/mixer_l16_224.goog_in21k"]
    assert timm.url == (
        "https://huggingface.co/timm/mixer_l16_224.goog_in21k/resolve/main/model.safetensors"
    )
    for name, entry in CATALOGUE.items():
        is_tanh = None if entry.family == "bit" else not re.search("miil|gmlp", name)
        assert entry.gelu_approximate is is_tanh
        assert entry.input_range == ((0, 1) if "miil" in name else (-1, 1))
        assert re.sub("/8$", "/16", entry.variant) in MODELS[entry.family][1]
        is_tuned = "imagenet2012" in name or "ILSVRC2012" in name or "ft_in1k" in name
        assert entry.data[1] == 1000 or (not is_tuned and "21k" in entry.data[0])
        assert entry.top1 is None or entry.data[1] == 1000
        assert entry.recipe.image_size <= entry.recipe.resize < 1.2 * entry.recipe.image_size


@pytest.mark.parametrize(
    ("name", "url", "facts"),
    [
        (
            "imagenet21k/ViT-B_16",
            "storage.googleapis.com/vit_models/imagenet21k/ViT-B_16.npz",
            ("B/16", 393.69, 21_843, 224, None),
        ),
        (
            "imagenet21k+imagenet2012/ViT-B_16",
            "storage.googleapis.com/vit_models/imagenet21k+imagenet2012/ViT-B_16.npz",
            ("B/16", 331.4, 1000, 384, (84.212, "timm")),
        ),
        (
            "augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0"
            "--imagenet2012-steps_20k-lr_0.01-res_384",
            "storage.googleapis.com/vit_models/augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-"
            "do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_384.npz",
            ("L/16", None, 1000, 384, (85.59, "authors")),
        ),
        (
            "bit_models/BiT-M-R152x4-ILSVRC2012",
            "storage.googleapis.com/bit_models/BiT-M-R152x4-ILSVRC2012.npz",
            ("R152x4", None, 1000, 480, (84.936, "timm")),
        ),
        (
            "timm/gmlp_s16_224.ra3_in1k",
            "huggingface.co/timm/gmlp_s16_224.ra3_in1k/resolve/main/model.safetensors",
            ("S/16", None, 1000, 224, (79.652, "timm")),
        ),
    ],
)
def test_entries_of_other_families(name, url, facts):
    entry = CATALOGUE[name]
    assert entry.url == f"https://{url}"
    found = (entry.variant, entry.mebibytes, entry.data[1], entry.recipe.image_size, entry.top1)
    assert found == facts


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("imagenet21k/ViT-B16", "imagenet21k/ViT-B_16"),
        ("bit_models/BiT-M-R152x4-ILSVRC", "bit_models/BiT-M-R152x4-ILSVRC2012"),
        ("timm/gmlp_s16.ra3_in1k", "timm/gmlp_s16_224.ra3_in1k"),
        (
            "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.1",
            "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0",
        ),
    ],
)
def test_other_families_are_suggested_by_their_whole_names(wrong, right):
    with pytest.raises(ValueError, match=re.escape(f"Did you mean {right!r}?")):
        fetch(wrong)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'imagenet21k/Mixer-B_16'"):
        fetch("imagenet21k/Mixer-B16")


def test_a_file_is_downloaded_once(server, cache):
    path = fetch(NAME)
    assert path == cache / PLACE
    assert path.read_bytes() == CONTENT
    assert fetch(NAME) == path
    assert len(server.ranges) == 1


def test_the_cache_is_in_the_home_folder(server, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(NAME) == tmp_path / ".cache/mixer/weights" / PLACE


def test_the_given_folder_comes_first_and_needs_no_network(server, cache, tmp_path, monkeypatch):
    put(cache / PLACE)
    given = put(tmp_path / "given" / PLACE)
    monkeypatch.setenv("MIXER_WEIGHTS", str(tmp_path / "given"))
    assert fetch(NAME) == given
    given.unlink()
    assert fetch(NAME) == cache / PLACE
    assert server.ranges == []


def test_a_given_folder_that_is_none_is_an_error(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXER_WEIGHTS", str(tmp_path / "typo"))
    with pytest.raises(ValueError, match="Expected MIXER_WEIGHTS to be a folder; got '.*typo'"):
        fetch(NAME)


def test_a_file_of_another_size_is_not_taken(server, cache):
    path = put(cache / PLACE, CONTENT[: 2**19])
    with pytest.raises(ValueError, match="Remove it") as raised:
        fetch(NAME)
    assert str(raised.value) == (
        f"{path} is not {NAME}. Expected a file of 1.0 MiB; got 0.50 MiB. Remove it."
    )


@pytest.mark.parametrize("content", [PAGE, PAGE * (2**20 // len(PAGE)), bytes(2**20), CONTENT[:-9]])
def test_what_is_no_archive_never_becomes_weights(server, cache, content, monkeypatch):
    entry = dataclasses.replace(CATALOGUE[NAME], mebibytes=None)  # as timm's, of unknown size
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    server.content = content  # code 200, application/octet-stream
    with pytest.raises(ValueError, match=r"(?s)Cannot download .*Expected an archive") as error:
        fetch(NAME)
    assert ("It is a web page" in str(error.value)) == content.startswith(PAGE)
    assert not list(cache.rglob("*.npz"))
    server.content = CONTENT
    assert fetch(NAME).read_bytes() == CONTENT  # the next call downloads again


def test_a_page_in_the_cache_is_named_with_what_to_do(server, cache, monkeypatch):
    entry = dataclasses.replace(CATALOGUE[NAME], mebibytes=None)
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    path = put(cache / PLACE, PAGE)
    with pytest.raises(ValueError, match=f"{path} is not {NAME}. .* a web page.* Remove it"):
        fetch(NAME)
    path.unlink()
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_missing_file_says_where_to_put_it(server, cache):
    server.status = 404
    with pytest.raises(ValueError, match="Cannot download") as raised:
        fetch(NAME)
    assert (
        str(raised.value)
        == f"""\
Cannot download {NAME} from
  {server.url}/{PLACE}
The server returned 404 Not Found.
Or download the file by other means and save it as
  {cache / PLACE}
or, with the environment variable MIXER_WEIGHTS=DIR, as
  DIR/{PLACE}"""
    )


def test_without_a_network_it_says_where_to_put_it(server, cache, tmp_path, monkeypatch):
    url = CATALOGUE[NAME].url.replace(server.url, "http://127.0.0.1:1")
    monkeypatch.setitem(CATALOGUE, NAME, dataclasses.replace(CATALOGUE[NAME], url=url))
    monkeypatch.setenv("MIXER_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="Cannot download") as raised:
        fetch(NAME)
    lines = str(raised.value).splitlines()
    assert lines[1] == f"  http://127.0.0.1:1/{PLACE}"
    assert "Connection refused" in lines[2]
    assert lines[3] == "Run the command again to resume."
    assert lines[5] == f"  {cache / PLACE}"
    assert lines[6] == f"or, with the environment variable MIXER_WEIGHTS={tmp_path}, as"
    assert lines[7] == f"  {tmp_path / PLACE}"


def test_a_broken_download_goes_on(server, cache):
    server.cuts = [2**19]
    with pytest.raises(ValueError, match="Run the command again to resume"):
        fetch(NAME)
    assert not (cache / PLACE).exists()
    assert fetch(NAME).read_bytes() == CONTENT
    assert server.ranges[1].startswith("bytes=")


@pytest.mark.parametrize(
    ("name", "golden", "image_size", "resize", "gelu_approximate"),
    [
        ("bit_models/BiT-M-R50x1-ILSVRC2012", "bit_tiny.npz", 448, 448, None),
        ("bit_models/BiT-S-R50x1", "bit_tiny.npz", 224, 256, None),
        ("imagenet21k/ViT-L_16", "vit_tiny_prelogits.npz", 32, 37, True),
        ("timm/gmlp_s16_224.ra3_in1k", "timm_gmlp_tiny.safetensors", 32, 37, False),
    ],
)
def test_a_name_sets_resolution_crop_and_gelu(
    name, golden, image_size, resize, gelu_approximate, tmp_path, monkeypatch
):
    file = pathlib.Path(__file__).parent.parent / "golden" / golden
    put(tmp_path / CATALOGUE[name].relative_path, file.read_bytes())
    monkeypatch.setenv("MIXER_WEIGHTS", str(tmp_path))
    loaded = load_model(name)
    assert loaded.image_size == image_size  # of a BiT-ResNet, that of the catalogue
    assert loaded.recipe.crop == "resmall_crop"
    assert loaded.recipe.resize_for(loaded.image_size) == resize
    assert getattr(loaded.model, "gelu_approximate", None) is gelu_approximate
    assert loaded.assumed == ""
