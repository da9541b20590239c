"""Sizes that headers claim, before anything is decoded."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mixer.data import image_check
from mixer.data.image_check import check_size, image_problem


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("check", [check_size, check_in_a_graph])
def test_the_size_in_the_header_is_the_limit(kind, check, monkeypatch):
    encoded = tf.constant(encode(kind))
    monkeypatch.setattr(image_check, "MAX_PIXELS", 600)
    check(encoded)
    monkeypatch.setattr(image_check, "MAX_PIXELS", 599)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 599 pixels"):
        check(encoded)


def test_other_bytes_claim_no_size():
    for content in (b"", b"BM", b"GIF89a", b"text" * 99):
        check_size(tf.constant(content))


def test_what_is_wrong_with_an_image(monkeypatch):
    assert image_problem(encode("PNG")) == image_problem(encode("JPEG")) == ""
    assert (
        image_problem(encode("GIF"))
        == "is neither JPEG nor PNG: it begins with b'GIF87a\\x1e\\x00'"
    )
    assert image_problem(b"") == "is empty"
    monkeypatch.setattr(image_check, "MAX_PIXELS", 599)
    assert image_problem(encode("PNG")) == "claims 30 x 20 pixels, more than 599"
    monkeypatch.setattr(image_check, "MAX_BYTES", 50)
    size = len(encode("JPEG"))
    assert image_problem(encode("JPEG")) == f"has {size} bytes: too many for an image"
