"""Names of TPU slices; what libtpu makes of them, where it is installed."""

import importlib.util

import pytest

from mixer.rehearsal.topology import _shape, larger_slices, slice_devices


@pytest.mark.parametrize(
    ("chips", "dimensions", "shape"),
    [
        (4, 2, [2, 2]),
        (16, 2, [4, 4]),
        (32, 2, [4, 8]),
        (256, 2, [16, 16]),
        (4, 3, [2, 2, 1]),
        (8, 3, [2, 2, 2]),
        (16, 3, [2, 2, 4]),
        (128, 3, [4, 4, 8]),
    ],
)
def test_shapes_are_as_even_as_can_be(chips, dimensions, shape):
    assert _shape(chips, dimensions) == shape


def test_larger_slices_double():
    assert larger_slices("v3-512") == ["v3-1024", "v3-2048"]
    assert larger_slices("v5e-256") == ["v5e-512", "v5e-1024"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v3-33", r"v3-N with N one of 8, 16, .*got 'v3-33'. Nearest: v3-32"),
        ("v3-4", r"Nearest: v3-8"),
        ("v5e-1", r"Nearest: v5e-4"),
        ("v3-4096", r"Nearest: v3-2048"),
        ("v9-8", r"such as v3-32, with a generation from v2, v3, v4, v5e, v5p, v6e; got 'v9-8'"),
        ("v3", r"such as v3-32"),
    ],
)
def test_slices_that_do_not_exist_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        slice_devices(name)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed here"
)
def test_without_libtpu_the_error_says_what_to_install():
    with pytest.raises(ValueError, match=r"v3-8 .*requirements-tpu.txt"):
        slice_devices("v3-8")
