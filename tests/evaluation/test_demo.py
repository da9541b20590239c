"""The page to try a model: what it shows, what it refuses; in a browser, from the real script."""

import importlib.util
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tomllib
import zlib

import numpy as np
import psutil
import pytest
import requests
from children import one_device, read_line
from PIL import Image
from sklearn.datasets import load_digits

import mixer
from mixer.data.image_check import MAX_BYTES
from mixer.evaluation import demo
from mixer.evaluation.prediction import Prediction, Predictor
from mixer.models.permuted import PermutedMixer
from mixer.weights.load import LoadedModel, load_model

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
NEEDS_GRADIO = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="needs pip install .[demo]"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(scope="module")
def tiny():
    return mixer.load(GOLDEN / "mixer_tiny.npz", gelu="tanh")


@pytest.fixture
def png(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def huge_png(path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG of a few bytes that claims 20,000 x 20,000 pixels."""
    header = b"IHDR" + struct.pack(">2I5B", 20000, 20000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + header + checksum)
    return path


def test_tiles_are_cut_and_enlarged():
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    picture = demo.tiles(image, 2)
    assert picture.shape == (480, 480, 3)  # 5 x 5 pixels, each enlarged 96 times
    small = picture[::96, ::96]
    np.testing.assert_array_equal(small.repeat(96, 0).repeat(96, 1), picture)
    np.testing.assert_array_equal(np.delete(np.delete(small, 2, 0), 2, 1), image)
    assert (small[2] == 255).all()
    assert (small[:, 2] == 255).all()
    whole = demo.tiles(image, None)
    np.testing.assert_array_equal(whole, image.repeat(120, 0).repeat(120, 1))
    wide = np.zeros((1000, 1000, 3), np.uint8)
    assert demo.tiles(wide, 500).shape == (1001, 1001, 3)  # large enough as it is


def test_what_is_shown_is_what_is_predicted(tiny, png):
    table, picture = demo.look(tiny, str(png))
    (found,) = tiny.predict([png])
    rows = re.findall(r'<tr><td>(.*?)</td><td><meter value="(.*?)">.*?<td>(.*?)%</td>', table)
    assert tuple(name for name, _, _ in rows) == found.classes
    assert tuple(float(value) for _, value, _ in rows) == found.probabilities
    assert [percent for _, _, percent in rows] == [f"{100 * p:.2f}" for p in found.probabilities]
    np.testing.assert_array_equal(picture, demo.tiles(found.image, 4))


def test_names_of_classes_are_text_and_may_be_the_same():
    names = ("crane", "<img src=x>", "crane", "a\udcffb")
    table = demo.classes_table(Prediction(pathlib.Path("a"), None, names, (0.5, 0.3, 0.2, 0.0)))
    shown = ["crane", "&lt;img src=x&gt;", "crane", "a\\udcffb"]
    assert re.findall(r"<tr><td>(.*?)</td>", table) == shown
    assert table.count("<img") == 0
    table.encode()


def test_what_is_no_image_is_refused_in_one_message(tiny, tmp_path, png):
    texts = {
        "a.txt": (b"no image", "is no JPEG, PNG, BMP, GIF or WebP image: it begins with"),
        "cut.png": (png.read_bytes()[:-20], "is a PNG that cannot be decoded: broken or cut short"),
        "<b>.png": (b"", "is empty"),
    }
    for name, (content, message) in texts.items():
        (tmp_path / name).write_bytes(content)
        shown, picture = demo.look(tiny, str(tmp_path / name))
        name = name.replace("<b>", "&lt;b&gt;")
        start = f'<p role="alert">Expected {name} to be an image; got one that {message}'
        assert shown.startswith(start)
        assert picture is None
    shown, _ = demo.look(tiny, str(huge_png(tmp_path / "huge.png")))
    assert "huge.png to be an image; got one that claims 20,000 x 20,000 pixels, more" in shown
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    shown, _ = demo.look(tiny, str(tmp_path / "large.png"))
    assert "got one that has 268,435,457 bytes: too many for an image." in shown


def test_a_bug_is_no_message(tiny, png, monkeypatch):
    monkeypatch.setattr(tiny, "predict", lambda images: images[1])
    with pytest.raises(IndexError):
        demo.look(tiny, str(png))


def test_the_maps_are_those_of_the_first_units(tiny):
    params = {f"MixerBlock_{block}": token_mixing(block) for block in range(2)}
    model = tiny.model.clone(num_blocks=2, tokens_mlp_dim=2)
    maps = demo.token_mixing_maps(Predictor(LoadedModel(model, params, 16, None)))
    colours = {colour: count for count, colour in maps.convert("RGB").getcolors(10**6)}
    red, blue = (103, 0, 31), (5, 48, 97)  # the ends of the colour map
    # In both blocks one unit is largest everywhere and the other its negative.
    assert min(colours[red], colours[blue]) > 0.9 * max(colours[red], colours[blue]) > 1000


def token_mixing(block: int) -> dict:
    """Two units, each with one weight of all 16 tokens, the second the negative of the first."""
    return {"token_mixing": {"Dense_0": {"kernel": np.full((16, 2), block + 1.0) * [1, -1]}}}


def test_of_other_models_it_is_said_what_they_lack():
    for weights, title in (
        ("vit_tiny.npz", "What the model sees: 32 x 32 pixels, 16 tiles of 8 x 8"),
        ("bit_tiny.npz", "224 pixels; a BitResNet has no tiles of the image"),
    ):
        predictor = Predictor(load_model(str(GOLDEN / weights)))
        assert demo.tiles_title(predictor).endswith(title)
        assert demo.token_mixing_maps(predictor) is None
    sizes = dict(num_blocks=1, patch_size=4, hidden_dim=8, tokens_mlp_dim=8, channels_mlp_dim=8)
    permuted = Predictor(LoadedModel(PermutedMixer(num_classes=2, **sizes), {}, 16, None))
    assert demo.tiles_title(permuted).endswith("a PermutedMixer has no tiles of the image")
    assert demo.token_mixing_maps(permuted) is None


def test_samples_are_images_that_come_with_a_package(tmp_path):
    paths = demo.write_samples(tmp_path)
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size)
            digit = np.asarray(image)
    assert sizes == [(640, 427), (640, 427), (8, 8)]
    np.testing.assert_allclose(digit / 255 * 16, load_digits().images[3], atol=0.05)


def test_what_keeps_the_page_from_being_served(tiny, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"got --host=127.0.0.1 --port={port}: .*in use"):
            demo.listen("127.0.0.1", port)
    headless = Predictor(LoadedModel(tiny.model.clone(num_classes=0), {}, 16, None), class_names=())
    with pytest.raises(ValueError, match="Expected weights with a head"):
        demo.serve(headless, "tiny", "127.0.0.1", 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="no gradio. Install: pip install 'gradio>=6,<7'"):
        demo.serve(tiny, "tiny", "127.0.0.1", 0)


def test_the_packages_are_those_of_the_installation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["demo"] == demo.REQUIREMENTS


@pytest.fixture
def served(tmp_path):
    """Starts the script with tiny weights, and yields its process and its address."""
    names = tmp_path / "names.txt"
    names.write_text("crane\n<b>bold</b>\n{{value}} ${value}\ncrane\ne\nf\ng\n")
    command = [sys.executable, ROOT / "scripts/demo.py", f"--weights={GOLDEN / 'mixer_tiny.npz'}"]
    variables = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": one_device(), "TMPDIR": str(tmp_path)}
    proxy = socket.create_server(("127.0.0.1", 0))
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}" if name != "no_proxy" else ""
        variables |= {name: address, name.upper(): address}
    with (
        proxy,
        subprocess.Popen(
            [*command, "--gelu=tanh", f"--class_names={names}", "--port=0"],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        line = read_line(process)
        try:
            yield process, re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nothing was asked of the network
            proxy.accept()


@NEEDS_GRADIO
@pytest.mark.slow
def test_the_server_is_for_this_machine_and_ends_when_asked(served, tmp_path):
    process, url = served
    of_all = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    sockets = [socket for one in of_all for socket in one.net_connections("inet")]
    listening = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", int(url.rpartition(":")[2]))]
    for path in ("/etc/passwd", str(ROOT / "README.md"), str(tmp_path / "names.txt")):
        assert requests.get(f"{url}/gradio_api/file={path}", timeout=60).status_code in (403, 404)
    assert [p for p in tmp_path.iterdir() if p.name.startswith("mixer-demo-")]
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with open(tmp_path / "large.png", "rb") as file:
        reply = requests.post(f"{url}/gradio_api/upload", files={"files": file}, timeout=60)
    assert (reply.status_code, reply.text[:41]) == (
        413,
        "File size exceeded maximum allowed size o",
    )
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert errors.strip() == "Interrupted."
    assert [p for p in tmp_path.iterdir() if p.name.startswith("mixer-demo-")] == []


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with playwright.sync_playwright() as started:
        if CHROMIUM is None and not os.path.exists(started.chromium.executable_path):
            pytest.skip("needs Chromium")
        with started.chromium.launch(executable_path=CHROMIUM) as browser:
            yield browser


@NEEDS_GRADIO
@pytest.mark.slow
def test_the_page_in_a_browser(browser, served, tmp_path, png):
    _, url = served
    page = browser.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    maps = page.locator("#maps img")
    maps.wait_for()
    upload = page.locator("input[type=file]")
    predictor = mixer.load(
        GOLDEN / "mixer_tiny.npz", gelu="tanh", class_names=str(tmp_path / "names.txt")
    )

    def check_shown(path: pathlib.Path) -> None:
        (found,) = predictor.predict([path])
        first = page.get_by_text(f"{found.probabilities[0]:.2%}", exact=True)
        first.wait_for()
        rows = page.locator("#classes tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        shown = zip(found.classes, found.probabilities, strict=True)
        assert [(name, percent) for name, _, percent in cells] == [
            (name, f"{probability:.2%}") for name, probability in shown
        ]
        picture = Image.open(io.BytesIO(page.request.get(source()).body())).convert("RGB")
        np.testing.assert_array_equal(picture, demo.tiles(found.image, 4))

    def source() -> str:
        return page.locator("#tiles img").get_attribute("src")

    def message() -> str:
        page.locator("#classes [role=alert]").wait_for()
        return page.locator("#classes").inner_text()

    upload.set_input_files(png)
    check_shown(png)
    page.get_by_label("Clear").first.click()
    page.locator("#classes table").wait_for(state="detached")
    upload.set_input_files(huge_png(tmp_path / "huge.png"))
    assert message() == (
        "Expected huge.png to be an image; got one that claims 20,000 x 20,000 pixels, more than "
        "100,000,000."
    )
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    page.get_by_label("Clear").first.click()
    upload.set_input_files(tmp_path / "large.png")
    page.get_by_text('exceed the maximum allowed size of 256.0 Mb: "large.png"').wait_for()
    for sample in demo.write_samples(tmp_path):
        page.get_by_text(sample.name).last.click()
        check_shown(sample)
    outside = [u for u in asked if not u.startswith((url, "data:", "blob:"))]
    assert (outside, wrong) == ([], [])
