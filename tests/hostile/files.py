"""Hostile files: what each is, what it is given to, and the name that must be in the answer.

`CANARY` appears in the folder if anything of them is run.
"""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image

from mixer.checkpoint.checksum import json_checksum

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CANARY = "canary"
_NESTED = "[" * 100_000


@dataclasses.dataclass(frozen=True)
class Case:
    """One file and the command that reads it."""

    what: str
    script: str
    arguments: tuple[object, ...]
    named: str


class Trap:
    """Makes a folder if it is unpickled."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / CANARY),)


def weights(folder: pathlib.Path) -> list[Case]:
    """Returns files of weights for scripts/convert_weights.py."""
    arrays = dict(np.load(GOLDEN / "mixer_tiny.npz"))
    whole = (GOLDEN / "mixer_tiny.npz").read_bytes()
    trap = io.BytesIO()
    np.save(trap, np.array([Trap(folder)], object), allow_pickle=True)

    def npz(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
        content = io.BytesIO()
        np.savez(content, **arrays)
        with zipfile.ZipFile(content, "a", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return content.getvalue()

    def changed(**others: np.ndarray) -> bytes:
        content = io.BytesIO()
        np.savez(content, **(arrays | {"head/bias": others["bias"]}))
        return content.getvalue()

    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    tensor = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    files = {
        "pickled object in .npz": ("a.npz", npz(**{"x.npy": trap.getvalue()})),
        "pickle named .npz": ("b.npz", pickle.dumps(Trap(folder))),
        "truncated .npz": ("c.npz", whole[: len(whole) // 2]),
        "no bytes": ("d.npz", b""),
        "256 MiB in a small .npz": (
            "e.npz",
            npz(zipfile.ZIP_DEFLATED, **{"x.npy": bytes(2**28)}),
        ),
        "header of 4 TiB": ("f.npz", npz(**{"x.npy": header})),
        "member ../ of a .npz": ("g.npz", npz(**{f"../{CANARY}": b"out"})),
        "another shape": ("h.npz", changed(bias=np.zeros((9, 9), np.float32))),
        "integers": ("i.npz", changed(bias=np.zeros(7, np.int64))),
        "truncated .safetensors": ("j.safetensors", _safetensors({"a": tensor}, b"")),
        "header of 10^18 bytes": ("k.safetensors", struct.pack("<Q", 10**18) + b"{}"),
        "header nested 100,000 deep": ("l.safetensors", _with_header(_NESTED, b"")),
        "pickle named .safetensors": ("m.safetensors", pickle.dumps(Trap(folder))),
    }
    for name, content in files.values():
        (folder / name).write_bytes(content)
    return [
        Case(what, "convert_weights.py", (folder / name,), name)
        for what, (name, _) in files.items()
    ]


def _safetensors(header: dict[str, object], data: bytes) -> bytes:
    return _with_header(json.dumps(header), data)


def _with_header(text: str, data: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def png(width: int, height: int) -> bytes:
    """Returns a PNG that claims so many pixels and holds a few."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def jpeg() -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def images(folder: pathlib.Path, flags: tuple[object, ...]) -> list[Case]:
    """Returns files that are no images for scripts/predict.py, and for a dataset of a folder."""
    whole, tiff = jpeg(), io.BytesIO()
    Image.new("RGB", (9, 9)).save(tiff, "TIFF")
    size = whole.index(b"\xff\xc0") + 5  # of the frame: height and width
    files = {
        "no bytes": ("a.jpg", b""),
        "text": ("b.jpg", b"text\n" * 99),
        "pickle": ("c.png", pickle.dumps(Trap(folder))),
        "truncated JPEG": ("d.jpg", whole[: len(whole) // 2]),
        "PNG of 60,000 x 60,000 pixels": ("e.png", png(60_000, 60_000)),
        "PNG of 13,000 x 13,000 pixels": ("f.png", png(13_000, 13_000)),
        "JPEG of 65,535 x 65,535 pixels": ("g.jpg", whole[:size] + b"\xff" * 4 + whole[size + 4 :]),
        "TIFF": ("h.jpg", tiff.getvalue()),
    }
    cases = []
    for what, (name, content) in files.items():
        (folder / name).write_bytes(content)
        cases.append(Case(f"{what} to predict", "predict.py", (folder / name, *flags), name))
    (folder / "i.jpg").mkdir()
    with (folder / "j.jpg").open("wb") as file:  # has room for nothing
        file.write(whole[:20])
        file.truncate(2**34)
    (folder / "k.jpg").symlink_to("/dev/zero")
    others = {"folder": "i.jpg", "16 GiB file": "j.jpg", "link to /dev/zero": "k.jpg"}
    return cases + [
        Case(f"{what} to predict", "predict.py", (folder / name, *flags), name)
        for what, name in others.items()
    ]


def image_datasets(folder: pathlib.Path, flags: tuple[object, ...]) -> list[Case]:
    """Returns folders with one hostile image of ten classes for scripts/evaluate.py."""
    whole, cases = jpeg(), []
    for what, content in {
        "text": b"text",
        "truncated JPEG": whole[: len(whole) // 2],
        "PNG of 60,000 x 60,000 pixels": png(60_000, 60_000),
    }.items():
        root = folder / what.partition(" ")[0]
        for split in ("train", "test"):
            for label in range(10):
                (root / split / str(label)).mkdir(parents=True)
                (root / split / str(label) / "x.jpg").write_bytes(whole)
        (root / "test" / "3" / "bad.jpg").write_bytes(content)
        flag = f"--dataset=folder:{root}"
        cases.append(
            Case(f"{what} in a folder", "evaluate.py", (*flags, flag, "--split=test"), "bad.jpg")
        )
    return cases


def checkpoints(folder: pathlib.Path, run: pathlib.Path, train: tuple[object, ...]) -> list[Case]:
    """Returns damaged copies of a run for scripts/evaluate.py and mixer.main."""
    path = next(run.glob("checkpoints/*/meta/metadata")).relative_to(run)
    step = path.parent.parent.name
    meta = json.loads((run / path).read_text())
    del meta["sha256"]

    def signed(**changes: object) -> bytes:
        changed = {key: value for key, value in (meta | changes).items() if value is not None}
        return json.dumps({**changed, "sha256": json_checksum(changed)}).encode()

    texts = {
        "truncated metadata": (run / path).read_bytes()[:500],
        "metadata without its checksum": (run / path).read_bytes().replace(b"digits", b"cifar1"),
        "metadata nested 100,000 deep": _NESTED.encode(),
        "metadata that are a list": b"[1, 2]",
        "metadata without a config": signed(config=None),
        "config without keys": signed(config={"model": {}}),
        "arrays without shapes": signed(arrays={"params/stem/kernel": {"dtype": "float32"}}),
        "arrays of objects": signed(
            arrays={"params/x": {"dtype": "O", "shape": [2], "checksum": ""}}
        ),
    }
    cases = []
    for number, (what, content) in enumerate(texts.items()):
        copy = folder / f"run{number}"
        shutil.copytree(run, copy)
        (copy / path).write_bytes(content)
        cases.append(Case(what, "evaluate.py", (f"--weights={copy}",), f"run{number}"))
    for number, (what, name) in enumerate(
        {"truncated arrays": "d/*", "arrays without their index": "manifest.ocdbt"}.items()
    ):
        copy = folder / f"arrays{number}"
        shutil.copytree(run, copy)
        for file in (copy / "checkpoints" / step / "state").rglob(name):
            os.truncate(file, file.stat().st_size // 2)
        cases.append(Case(what, "evaluate.py", (f"--weights={copy}",), f"arrays{number}"))
    resumed, measured = folder / "resumed", folder / "measured"
    shutil.copytree(run, resumed)
    (resumed / path).write_bytes(b"{")
    shutil.copytree(run, measured)
    (measured / "metrics.jsonl").write_text(f"{_NESTED}\n")
    return [
        *cases,
        Case("damaged checkpoint to resume", "main", (*train, f"--workdir={resumed}"), "resumed"),
        Case("metrics nested 100,000 deep", "main", (*train, f"--workdir={measured}"), "measured"),
        Case(
            "pickle to start from",
            "main",
            (*train, f"--workdir={folder / 'new'}", f"--config.init_from={folder / 'b.npz'}"),
            "b.npz",
        ),
    ]


def datasets(folder: pathlib.Path, data_dir: pathlib.Path, run: pathlib.Path) -> list[Case]:
    """Returns prepared datasets with damaged metadata for scripts/evaluate.py."""
    (folder / "stranger.py").write_text(f"import os\nos.mkdir({str(folder / CANARY)!r})\n")
    features = (data_dir / "digits/1.0.0/features.json").read_text()
    image = "tensorflow_datasets.core.features.image_feature.Image"
    assert image in features
    cases = []
    for number, (what, name, content) in enumerate(
        [
            ("features of another module", "features.json", features.replace(image, "stranger.X")),
            ("features nested 100,000 deep", "features.json", _NESTED),
            ("features that are a list", "features.json", "[1]"),
            ("truncated dataset_info", "dataset_info.json", '{"name": "digi'),
            ("dataset_info with other types", "dataset_info.json", '{"splits": {"a": 1}}'),
            ("a class too many", "label.labels.txt", "".join(f"{n}\n" for n in range(11))),
        ]
    ):
        copy = folder / f"data{number}"
        shutil.copytree(data_dir, copy)
        (copy / "digits/1.0.0" / name).write_text(content)
        flags = (f"--weights={run}", f"--data_dir={copy}")
        cases.append(Case(what, "evaluate.py", flags, f"data{number}"))
    return cases


def sources(folder: pathlib.Path) -> list[Case]:
    """Returns images on disk for scripts/prepare_dataset.py."""
    whole = jpeg()

    def tar(name: str, size: int | None = None, **fields: object) -> bytes:
        content, info = io.BytesIO(), tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT) as archive:
            info.size = len(whole)
            archive.addfile(info, io.BytesIO(whole))
        return content.getvalue()

    files = {
        "tar with ../": ("a.tar", tar(f"../{CANARY}.jpg")),
        "tar with an absolute path": ("b.tar", tar(str(folder / f"{CANARY}.jpg"))),
        "tar with a link": ("c.tar", tar("x.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "truncated tar": ("d.tar", tar("x.jpg")[:700]),
        "pickle named .tar": ("e.tar", pickle.dumps(Trap(folder)) + bytes(1024)),
        "tar with a PNG bomb": ("f.tar", b""),
        "tar with a hole of 16 GiB": ("g.tar", _sparse_tar(2**34)),
    }
    bomb = io.BytesIO()
    with tarfile.open(fileobj=bomb, mode="w") as archive:
        info = tarfile.TarInfo("bomb.png")
        info.size = len(png(60_000, 60_000))
        archive.addfile(info, io.BytesIO(png(60_000, 60_000)))
    cases = []
    for what, (name, content) in files.items():
        root = folder / f"source_{name[0]}"
        (root / "sound").mkdir(parents=True)
        (root / "sound" / "x.jpg").write_bytes(whole)
        (root / name).write_bytes(content or bomb.getvalue())
        flags = (f"--images={root}", f"--name=made{name[0]}", f"--data_dir={folder / 'made'}")
        cases.append(Case(what, "prepare_dataset.py", flags, name))
    return cases


def _sparse_tar(size: int) -> bytes:
    """Returns a tar file with one image of so many bytes, none of which is in the archive."""
    info = tarfile.TarInfo("hole.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)  # one part: at 0, empty
    header[483:495] = b"\x80" + size.to_bytes(11, "big")  # the real size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(10_240 - 512)


def sweeps(folder: pathlib.Path, flags: tuple[object, ...]) -> list[Case]:
    """Returns folders of sweeps with a damaged config.json for scripts/sweep.py."""
    cases = []
    for number, (what, content) in enumerate(
        {"config that is a list": b"[1]", "config that is no text": b"\xff\xfe{"}.items()
    ):
        run = folder / f"sweep{number}" / "seed=0"
        cases.append(Case(what, "sweep.py", (*flags, f"--workdir={run.parent}"), f"sweep{number}"))
        for path in (run, folder / f"sweep{number}" / "learning_rate=0.1" / "seed=0"):
            path.mkdir(parents=True, exist_ok=True)
            (path / "config.json").write_bytes(content)
    return cases
