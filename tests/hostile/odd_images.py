"""Odd images: what each holds, and whether it is an image or is refused by name."""

import io
import os
import pathlib
import struct
import zlib

import numpy as np
from hostile.files import Trap, jpeg, png
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTO = Image.fromarray(load_sample_image("china.jpg")).resize((64, 48))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def sound() -> dict[str, bytes]:
    """Returns file name -> the bytes of images that must be read, in the right colours."""
    grey, alpha, tenth = PHOTO.convert("L"), PHOTO.convert("RGBA"), np.zeros((48, 64), np.uint8)
    tenth[5:, 7:] = 200
    alpha.putalpha(Image.fromarray(tenth))
    palette = PHOTO.convert("P", palette=Image.ADAPTIVE)
    few = PHOTO.convert("P", palette=Image.ADAPTIVE, colors=11)
    turned = PHOTO.transpose(Image.FLIP_TOP_BOTTOM)
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation, which the decoder of no training code applies
    whole, bmp = encode(PHOTO, "JPEG"), encode(turned, "BMP")
    return {
        "rgb.jpg": whole,
        "upper.JPEG": whole,
        "progressive.jpg": encode(PHOTO, "JPEG", progressive=True),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(PHOTO.convert("CMYK"), "JPEG"),
        "full_chroma.jpg": encode(PHOTO, "JPEG", subsampling=0, quality=100),
        "more_after_the_end.jpg": whole + b"more",
        "comment.jpg": encode(PHOTO, "JPEG", comment=b"x" * 60_000),
        "exif.jpg": encode(PHOTO, "JPEG", exif=exif),
        "profile.jpg": encode(PHOTO, "JPEG", icc_profile=bytes(70_000)),
        "one_pixel.jpg": encode(PHOTO.resize((1, 1)), "JPEG"),
        "a_line_1x300.jpg": encode(PHOTO.resize((1, 300)), "JPEG"),
        "rgb.png": encode(PHOTO, "PNG"),
        "grey.png": encode(grey, "PNG"),
        "bits.png": encode(PHOTO.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "palette_transparent.png": encode(palette, "PNG", transparency=0),
        "palette_4_bits.png": encode(few, "PNG", bits=4),
        "alpha.png": encode(alpha, "PNG"),
        "grey_alpha.png": encode(alpha.convert("LA"), "PNG"),
        "grey_16_bits.png": encode(
            Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"
        ),
        "png_named.jpg": encode(PHOTO, "PNG"),
        "jpeg_named.png": whole,
        "rgb.bmp": encode(PHOTO, "BMP"),
        "grey.bmp": encode(grey, "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "palette_11.bmp": encode(few, "BMP"),
        "bits.bmp": encode(PHOTO.convert("1"), "BMP"),
        "alpha.bmp": encode(alpha, "BMP"),
        "top_down.bmp": bmp[:22] + struct.pack("<i", -48) + bmp[26:],
        "bmp_named.jpg": encode(palette, "BMP"),
        "odd_width.bmp": encode(PHOTO.resize((63, 48)), "BMP"),
        "still.gif": encode(palette, "GIF"),
        "moving.gif": encode(
            palette, "GIF", save_all=True, append_images=[turned.convert("P")] * 9
        ),
        "transparent.gif": encode(palette, "GIF", transparency=3),
        "gif_named.jpg": encode(palette, "GIF"),
        "lossy.webp": encode(PHOTO, "WEBP"),
        "lossless.webp": encode(PHOTO, "WEBP", lossless=True),
        "alpha.webp": encode(alpha, "WEBP", lossless=True, exact=True),
        "webp_named.png": encode(PHOTO, "WEBP"),
        "latin_\udce9.jpg": whole,
        "two\nlines.jpg": whole,
        "decomposed_e\u0301.jpg": whole,
    }


def refused() -> dict[str, bytes]:
    """Returns file name -> the bytes of what is no image, claims too much or is cut short."""
    whole, webp, bmp = jpeg(), encode(PHOTO, "WEBP"), encode(PHOTO, "BMP")
    moving = encode(PHOTO, "WEBP", save_all=True, append_images=[PHOTO.rotate(90)])
    gif = encode(PHOTO.convert("P"), "GIF")
    size = whole.index(b"\xff\xc0") + 5  # of the frame: height and width
    still = (
        b"VP8X\x0a\0\0\0\0\0\0\0" + (11_999).to_bytes(3, "little") + (15_999).to_bytes(3, "little")
    )
    return {
        "empty.jpg": b"",
        "text.jpg": b"text\n" * 99,
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "pickle.png": __import__("pickle").dumps(Trap(pathlib.Path("."))),
        "tiff_named.jpg": encode(PHOTO, "TIFF"),
        "jpeg_2000_named.jpg": encode(PHOTO, "JPEG2000"),
        "ppm_named.png": encode(PHOTO, "PPM"),
        "moving.webp": moving,
        "cut.jpg": whole[: len(whole) // 2],
        "cut.png": encode(PHOTO, "PNG")[:900],
        "cut.bmp": bmp[: len(bmp) // 2],
        "cut.gif": gif[: len(gif) // 2],
        "cut.webp": webp[: len(webp) // 2],
        "header_only.bmp": bmp[:30],
        "no_colour.bmp": bmp[:28] + struct.pack("<HI", 16, 0) + bmp[34:],
        "huge.png": png(60_000, 60_000),
        "large.png": png(13_000, 13_000),
        "huge.jpg": whole[:size] + b"\xff" * 4 + whole[size + 4 :],
        "huge.bmp": bmp[:18] + struct.pack("<ii", 2**30, 2**30) + bmp[26:],
        "huge.gif": gif[:6] + b"\xff" * 4 + gif[10:],
        "192_megapixels.webp": webp[:12] + still + webp[12:],
    }


def no_files(folder: pathlib.Path) -> list[str]:
    """Writes what is named as an image and is no file, or no small one; returns the names."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("nowhere")
    (folder / "circle.png").symlink_to("circle.png")
    with (folder / "sparse.jpg").open("wb") as file:
        file.write(jpeg()[:20])
        file.truncate(40 * 2**30)
    return ["pipe.jpg", "zeros.jpg", "gone.jpg", "circle.png", "sparse.jpg"]


def write_heavy(folder: pathlib.Path) -> dict[str, int]:
    """Writes images that can make a decoder take much memory; returns how many pixels each has."""
    large = Image.new("RGB", (4000, 3000), (10, 200, 30))
    frames = [Image.new("P", (1000, 1000), n % 250) for n in range(200)]
    line = Image.new("RGB", (1, 65_000), (200, 100, 50))
    images = {
        "line_1x65000.jpg": (encode(line, "JPEG"), 65_000),
        "line_1x65000.png": (encode(line, "PNG"), 65_000),
        "large.jpg": (encode(large, "JPEG"), 12_000_000),
        "large_progressive.jpg": (encode(large, "JPEG", progressive=True), 12_000_000),
        "large.png": (encode(large, "PNG"), 12_000_000),
        "large_palette.bmp": (encode(large.convert("P"), "BMP"), 12_000_000),
        "large.webp": (encode(large, "WEBP", quality=1, method=0), 12_000_000),
        "many_frames.gif": (
            encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
            1_000_000,
        ),
        "many_chunks.png": (_with_text(encode(PHOTO, "PNG")), 64 * 48),
    }
    for name, (content, _) in images.items():
        (folder / name).write_bytes(content)
    return {name: pixels for name, (_, pixels) in images.items()}


def _with_text(image: bytes) -> bytes:
    """Returns a PNG with a compressed text of 64 MiB."""
    data = b"note\0\0" + zlib.compress(bytes(2**26))
    chunk = b"zTXt" + data
    chunk = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return image[:33] + chunk + image[33:]
