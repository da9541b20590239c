"""Sizes that headers claim, before anything is decoded."""

import io
import resource

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mixer.data import image_check, rare_formats
from mixer.data.image_check import check_size, image_problem, read_image
from mixer.data.preprocess import make_eval_preprocess
from mixer.data.rare_formats import decode_rare

PREPROCESS = make_eval_preprocess(size=8, crop="resize_crop", resize=8)


def encode(kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(content, kind)
    return content.getvalue()


def check_in_a_graph(encoded: tf.Tensor) -> tf.Tensor:
    @tf.function  # traced again, with the current limit
    def checked(encoded: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([check_size(encoded)]):
            return tf.identity(encoded)

    return checked(encoded)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("check", [check_size, check_in_a_graph])
def test_the_size_in_the_header_is_the_limit(kind, check, monkeypatch):
    encoded = tf.constant(encode(kind))
    monkeypatch.setattr(image_check, "MAX_PIXELS", 600)
    check(encoded)
    monkeypatch.setattr(image_check, "MAX_PIXELS", 599)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 599 pixels"):
        check(encoded)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("preprocess", [PREPROCESS, tf.function(PREPROCESS)])
def test_the_size_in_a_rare_header_is_the_limit(kind, preprocess, monkeypatch):
    monkeypatch.setattr(rare_formats, "MAX_PIXELS", 600)
    assert (preprocess(tf.constant(encode(kind))).numpy() == 0).all()
    monkeypatch.setattr(rare_formats, "MAX_PIXELS", 599)
    with pytest.raises(tf.errors.InvalidArgumentError, match="30 x 20 pixels, not 1 to 599"):
        preprocess(tf.constant(encode(kind)))


def test_bytes_without_a_header_are_no_image():
    for content in (b"BM", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8X", b"\x89PNG\r\n\x1a\n", b"text" * 99):
        assert image_problem(content)
        with pytest.raises(tf.errors.InvalidArgumentError):
            PREPROCESS(tf.constant(content))


def test_what_is_wrong_with_an_image(monkeypatch):
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        assert image_problem(encode(kind)) == ""
    assert (
        image_problem(encode("TIFF"))
        == "is no JPEG, PNG, BMP, GIF or WebP image: it begins with b'II*\\x00\\x08\\x00\\x00\\x00'"
    )
    assert image_problem(b"") == "is empty"
    monkeypatch.setattr(image_check, "MAX_PIXELS", 599)
    assert image_problem(encode("PNG")) == "claims 30 x 20 pixels, more than 599"
    monkeypatch.setattr(image_check, "MAX_BYTES", 50)
    size = len(encode("JPEG"))
    assert image_problem(encode("JPEG")) == f"has {size} bytes: too many for an image"


def test_a_palette_gives_colours():
    colours = Image.new("P", (4, 2))
    colours.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    colours.putdata([0, 1, 2, 0, 2, 1, 0, 1])
    content = io.BytesIO()
    colours.save(content, "BMP")
    assert decode_rare(content.getvalue()).tolist() == np.asarray(colours.convert("RGB")).tolist()


def test_only_small_regular_files_are_read(tmp_path, monkeypatch):
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "x").write_bytes(b"xyz")
    for name, problem in {
        "zero": "is a folder, a pipe or a device, not a file",
        ".": "is a folder, a pipe or a device, not a file",
        "gone": "cannot be read: No such file or directory",
    }.items():
        assert read_image(tmp_path / name) == (b"", problem)
    assert read_image(tmp_path / "x") == (b"xyz", "")
    monkeypatch.setattr(image_check, "MAX_BYTES", 2)
    assert read_image(tmp_path / "x") == (b"", "has 3 bytes: too many for an image")


def test_a_limit_of_the_machine_is_no_damage(tmp_path):
    (tmp_path / "x").write_bytes(b"xyz")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            read_image(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
