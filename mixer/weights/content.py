"""What a file is by its first bytes, for the error that it is no weights file."""

import pathlib

_BEGINNINGS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file with `git lfs pull`",
    b"<": "a web page or XML; the address or a login was wrong",
    b"{": "JSON text",
    b"\x80": "a pickle, as of PyTorch or Python; see the error for a .pth file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed with gzip; decompress it first",
}


def kind_of_file(path: pathlib.Path) -> str:
    """Returns in words what the file is if its first bytes show that; else ""."""
    try:
        with path.open("rb") as file:
            first = file.read(1024)
    except OSError:
        return ""
    if not first:
        return "empty"
    if first[8:9] == b"{" and int.from_bytes(first[:8], "little") < 2**32:
        return "a .safetensors file; give it that suffix"
    if first.startswith(b"PK\x03\x04"):
        inside = b"data.pkl" in first
        return "a pickle of PyTorch" if inside else "a zip archive, perhaps a .npz"
    for beginning, kind in _BEGINNINGS.items():
        if first.lstrip().startswith(beginning):
            return kind
    return "text" if first.isascii() and b"\x00" not in first else ""
