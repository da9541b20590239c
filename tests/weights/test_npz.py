"""Damaged and hostile .npz files: refused with a message, without filling the memory."""

import io
import os
import pathlib
import pickle
import struct
import tracemalloc
import warnings
import zipfile

import flax
import numpy as np
import pytest

from mixer.weights import load_params

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


class MakesFolder:
    """Makes the folder if it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array)
    return content.getvalue()


def npy_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


@pytest.fixture
def write(path, arrays):
    """Writes the golden weights with other members, `None` for one to be left out.

    The directory of the archive claims that the last of them has `claimed` bytes.
    """

    def write(members, compression=zipfile.ZIP_STORED, claimed=None):
        content = {f"{name}.npy": npy(array) for name, array in arrays.items()}
        content = {name: data for name, data in content.items() if name not in members} | members
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in content.items():
                if data is not None:
                    archive.writestr(name, data)
            if claimed is not None:
                archive.filelist[-1].file_size = claimed

    return write


@pytest.fixture
def assert_refused(path):
    """Asserts an error of at most a screen with the path and that text, and a low memory peak."""

    def check(message, most_memory=2 * 2**20):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=message) as error:
                load_params(path)
            assert tracemalloc.get_traced_memory()[1] < most_memory
        finally:
            tracemalloc.stop()
        text = str(error.value)
        assert str(path) in text
        assert "xpected" in text
        assert len(text) < 3000
        assert text.count("\n") < 10

    return check


def test_objects_are_never_unpickled(tmp_path, path, write, assert_refused):
    trap = np.array([MakesFolder(tmp_path / "made")], dtype=object)
    write({"head/bias.npy": npy(trap)})
    assert_refused("'head/bias.npy' holds pickled objects, .* Save it as an array of float32")
    write({"other.npy": npy(trap)})
    assert_refused("'other.npy' holds pickled objects")
    path.write_bytes(pickle.dumps({"head/bias": trap}))
    assert_refused("Expected an archive of arrays")
    path.write_bytes(npy(trap))
    assert_refused("Expected an archive of arrays")
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes()[path.read_bytes().index(b"\x80") :])
    assert (tmp_path / "made").exists()  # the trap is one


@pytest.mark.parametrize(
    "content", [b"", b"stem/kernel, 1.0, 2.0\n" * 99, b"PK\x03\x04" + bytes(99)]
)
def test_other_files_are_no_archives(content, path, assert_refused):
    path.write_bytes(content)
    assert_refused(r"Expected an archive of arrays \(.npz, a zip file\); got something else")


def test_a_truncated_archive(path, assert_refused):
    content = (GOLDEN / "mixer_tiny.npz").read_bytes()
    for length in (1, 1000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused("Expected an archive of arrays.* or an incomplete one")


def test_a_flipped_byte_in_the_data(path, assert_refused):
    for name in ("mixer_tiny.npz", "mixer_tiny_legacy.npz"):
        content = bytearray((GOLDEN / name).read_bytes())
        content[len(content) // 3] ^= 4
        path.write_bytes(content)
        assert_refused("Expected an intact array in .*; got a damaged one: Bad CRC-32")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"head/bias.npy": None}, "1 missing, 0 extra, 0 with .*\n  missing: head/bias\n"),
        (
            {"extra/scale.npy": npy(np.zeros(3))},
            r"0 missing, 1 extra.*\n  extra: extra/scale \(3,\)",
        ),
        (
            {"head/kernel.npy": npy(np.zeros((7, 24), np.float32))},
            r"1 with the wrong shape.\n  wrong shape: head/kernel \(7, 24\), expected \(24, 7\)\n",
        ),
        ({"head/bias.npy": npy(np.zeros(7, np.int32))}, "floats; 'head/bias.npy' has type int32"),
        ({"head/bias.npy": npy(np.zeros(7, "i1,i1"))}, "'head/bias.npy' has type"),
        (
            {"README.txt": b"hello"},
            "unique members .*; got 'README.txt'. Write the file with numpy.savez",
        ),
        ({"../../head.npy": npy(np.zeros(3))}, "members like 'stem/kernel.npy'.*'../../head.npy'"),
        ({"head/bias.npy": b""}, "intact array in 'head/bias.npy'; got a damaged one: .*[Mm]agic"),
        ({"head/bias.npy": b"x" * 60}, "intact array in 'head/bias.npy'; got a damaged one"),
        ({"head/bias.npy": npy_header("(7,)")}, "it claims 96 bytes and has 68"),
        ({"head/bias.npy": npy_header("(7,)") + bytes(29)}, "it claims 96 bytes and has 97"),
        ({"head/bias.npy": npy_header("(10**12,)")}, "intact array in 'head/bias.npy'"),
        (
            {"head/bias.npy": npy_header("(1000000000000,)")},
            "it claims 4,000,000,000,0.. bytes and",
        ),
        ({"head/bias.npy": npy_header("(-1, -7)") + bytes(28)}, "1 with the wrong shape"),
        ({"head/bias.npy": npy_header("(7")}, "intact array in 'head/bias.npy'"),
        ({"head/bias.npy": npy_header("(" * 9000 + ")" * 9000)}, "intact array in 'head/bias.npy'"),
        ({"head/bias.npy": npy_header("(7,)", "<f4\x1b[31m")}, "intact array in 'head/bias.npy'"),
        (
            {"head/bias.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(60)},
            r"format version \(2, 0\) instead of \(1, 0\)",
        ),
    ],
)
def test_members_that_do_not_belong(members, message, write, assert_refused):
    write(members)
    assert_refused(message)


def test_a_name_that_is_there_twice(path, arrays, assert_refused):
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, about this name
        for name, array in [*arrays.items(), ("head/bias", np.ones(7, np.float32))]:
            archive.writestr(f"{name}.npy", npy(array))
    assert_refused("unique members .*; got 'head/bias.npy'")


def test_a_bomb_with_true_claims(write, path, assert_refused):
    zeros = np.zeros((24, 3_000_000), np.float32)  # 288 MB
    head = {"head/kernel.npy": npy(zeros), "head/bias.npy": npy(zeros[0])}
    write(head, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    del zeros, head
    assert_refused("Expected at most .* in a file of .* it claims 300,.* It could exhaust memory")


def test_a_bomb_that_claims_to_be_small(write, path, assert_refused):
    # Larger than the 4 KiB that zipfile reads ahead with the header.
    header, size = npy_header("(4, 4, 3, 24)"), 4 * 4 * 3 * 24 * 4
    bomb = {"stem/kernel.npy": header + bytes(10**8)}
    write(bomb, zipfile.ZIP_DEFLATED, claimed=len(header) + size)
    assert path.stat().st_size < 10**6
    del bomb
    assert_refused("intact array in 'stem/kernel.npy'; got a damaged one: Bad CRC-32")


def test_a_directory_that_claims_more_than_there_is(write, assert_refused):
    header = npy_header("(7,)")
    write({"head/bias.npy": header + bytes(27)}, claimed=len(header) + 28)
    assert_refused("intact array in 'head/bias.npy'; got a damaged one: 27 bytes of data instead")


def test_another_compression_and_a_password(write, path, assert_refused):
    write({}, zipfile.ZIP_LZMA)
    assert_refused("stored or deflated members; .* has compression type 14")
    write({})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert_refused("got a damaged one: .* is encrypted, password required")


def test_a_byte_flipped_anywhere_is_noticed_or_without_effect(path, arrays):
    compressed = io.BytesIO()
    np.savez_compressed(compressed, **arrays)
    rng = np.random.default_rng(0)
    refused = 0
    for original in ((GOLDEN / "mixer_tiny.npz").read_bytes(), compressed.getvalue()):
        # Half of them among the names and sizes in the directory at the end.
        for place in [*rng.integers(0, len(original), 60), *rng.integers(-4000, 0, 60)]:
            damaged = bytearray(original)
            damaged[place] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            try:
                loaded = flax.traverse_util.flatten_dict(load_params(path), sep="/")
            except ValueError:
                refused += 1
            else:
                assert loaded.keys() == arrays.keys()
                for name, array in arrays.items():
                    np.testing.assert_array_equal(loaded[name], array)
    assert refused > 100
