"""Names of TPU slices; what libtpu makes of them, where it is installed."""

import importlib.util
import os

import pytest

from mixer.flops import CHIPS
from mixer.rehearsal.topology import (
    _shape,
    larger_slices,
    num_cores,
    parse_slice,
    slice_devices,
)


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
    assert larger_slices("v5litepod-64") == ["v5e-128", "v5e-256"]
    assert larger_slices("v5e-256") == []  # a pod
    assert larger_slices("v6e-1")[:2] == ["v6e-4", "v6e-8"]


@pytest.mark.parametrize(
    ("name", "same", "chips", "number"),
    [
        ("v5litepod-16", "v5e-16", 16, 16),
        ("v6e-1", "v6e-1", 1, 1),
        ("v5p-16", "v5p-16", 8, 16),
        ("v4-8", "v4-8", 4, 8),
        ("2xv3-32", "2xv3-32", 16, 64),
        ("4xv5litepod-256", "4xv5e-256", 256, 1024),
        ("1xv3-8", "v3-8", 4, 8),
    ],
)
def test_both_spellings_of_a_slice_and_several_slices(name, same, chips, number):
    found = parse_slice(name)
    assert (str(found), found.chips, num_cores(name)) == (same, chips, number)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v3-33", r"v3-N with N one of 8, 16, .*got 'v3-33'. Nearest: v3-32"),
        ("v3-4", r"Nearest: v3-8"),
        ("v5e-2", r"v5e-N with N one of 1, 4, 8, .*256; got 'v5e-2'"),
        ("v5litepod-512", r"v5litepod-N with .*Nearest: v5litepod-256"),
        ("v2-1024", r"Nearest: v2-512"),
        ("0xv3-8", r"several slices such as 2xv5e-16; got '0xv3-8'"),
        ("v3-4096", r"Nearest: v3-2048"),
        (
            "v9-8",
            r"such as v3-32, with a generation from v2, v3, v4, v5e, v5p, v6e, or .*got 'v9-8'",
        ),
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


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs requirements-tpu.txt")
@pytest.mark.parametrize(
    ("name", "kind", "devices", "slices"),
    [
        ("v4-16", "TPU v4", 8, 1),
        ("v5litepod-16", "TPU v5 lite", 16, 1),
        ("v5e-1", "TPU v5 lite", 1, 1),
        ("v5p-8", "TPU v5", 4, 1),
        ("v6e-8", "TPU v6 lite", 8, 1),
        ("2xv3-8", "TPU v3", 16, 2),
    ],
)
def test_the_devices_of_a_slice(name, kind, devices, slices):
    before = dict(os.environ)
    found = slice_devices(name)
    assert len(found) == devices
    assert {device.device_kind for device in found} == {kind} <= CHIPS.keys()
    assert len({getattr(device, "slice_index", 0) for device in found}) == slices
    assert CHIPS[kind].chips * devices / slices == parse_slice(name).chips
    assert dict(os.environ) == before  # the compiler's variables are not left to other programs
