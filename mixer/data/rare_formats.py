"""Decodes BMP, GIF and WebP: what TensorFlow's decoders get wrong or cannot bound is done here.

TensorFlow reads a BMP with a palette as the indices of its colours, holds every frame of a GIF in
memory, and ends the process at an animated WebP. Of an animation the first frame of a GIF is the
image, and a WebP is refused.
"""

import struct

import numpy as np
import tensorflow as tf

MAX_PIXELS = 100_000_000  # 300 MB decoded

_BMP_BITFIELDS = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)  # red, green, blue
_WEBP_IS_ANIMATED = 2


def decode_rare(content: bytes) -> np.ndarray:
    """Returns the pixels of a BMP, GIF or WebP, uint8 `[height, width, 3]`; drops transparency.

    Raises:
      ValueError: what is wrong with the file, to follow its name.
    """
    try:
        if content.startswith(b"BM"):
            return _decode_bmp(content)
        if content.startswith((b"GIF87a", b"GIF89a")):
            return _decode(_first_frame(content), "GIF")
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            check_pixels("WebP", *_webp_size(content))
            return _decode(content, "WebP")
    except (struct.error, IndexError) as error:
        raise ValueError(f"is cut short: {len(content):,} bytes") from error
    begin = f"is no JPEG, PNG, BMP, GIF or WebP image: it begins with {content[:8]!r}"
    raise ValueError(begin if content else "is empty")


def check_pixels(kind: str, height: int, width: int) -> None:
    """Raises ValueError if an image claims no pixels or more than `MAX_PIXELS`."""
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(
            f"is a {kind} that claims {width:,} x {height:,} pixels, not 1 to {MAX_PIXELS:,}"
        )


def _decode(content: bytes, kind: str) -> np.ndarray:
    try:
        image = tf.io.decode_image(content, channels=0, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"is a {kind} that cannot be decoded: broken or cut short") from error
    return np.broadcast_to(image, (*image.shape[:2], 3)) if image.shape[2] == 1 else image[..., :3]


def _decode_bmp(content: bytes) -> np.ndarray:
    begin, header, width, height, bits, compression, colours = struct.unpack_from(
        "<IIii2xHI12xI", content, 10
    )
    check_pixels("BMP", abs(height), width)
    is_plain = compression == 0 and bits in (1, 4, 8, 24, 32)
    is_bgr = compression == 3 and bits == 32 and content[54:66] == _BMP_BITFIELDS
    if header < 40 or not (is_plain or is_bgr):
        raise ValueError(f"is a BMP of {bits} bits, compression {compression}: save it as PNG")
    stride, count = (bits * width + 31) // 32 * 4, abs(height)
    if begin + stride * count > len(content):
        raise ValueError("is a BMP that is cut short")
    rows = np.frombuffer(content, np.uint8, stride * count, begin).reshape(count, stride)
    rows = rows if height < 0 else rows[::-1]  # a negative height: the first row comes first
    if bits >= 24:
        pixels = rows[:, : width * bits // 8].reshape(count, width, bits // 8)
        return np.ascontiguousarray(pixels[..., 2::-1])
    colours = min(colours or 2**bits, 2**bits)
    palette = np.frombuffer(content, np.uint8, 4 * colours, 14 + header).reshape(-1, 4)[:, 2::-1]
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    image = np.empty((count, width, 3), np.uint8)
    for pixels, row in zip(image, rows, strict=True):  # an array of all indices takes 8 bytes each
        pixels[:] = palette[(row[:, None] >> shifts & (2**bits - 1)).ravel()[:width]]
    return image


def _first_frame(content: bytes) -> bytes:
    """Returns a GIF without what follows its first frame."""
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + _colour_table_size(flags)
    while content[position] == 0x21:  # an extension
        position = _after_blocks(content, position + 2)
    if content[position] != 0x2C:
        raise ValueError("is a GIF without a frame")
    frame_width, frame_height, flags = struct.unpack_from("<HHB", content, position + 5)
    check_pixels("GIF", max(height, frame_height), max(width, frame_width))
    return content[: _after_blocks(content, position + 11 + _colour_table_size(flags))] + b";"


def _colour_table_size(flags: int) -> int:
    return 3 * 2 ** (flags % 8 + 1) if flags & 0x80 else 0


def _after_blocks(content: bytes, position: int) -> int:
    """Returns the position after blocks of up to 255 bytes, each after its size; 0 ends them."""
    while size := content[position]:
        position += 1 + size
    return position + 1


def _webp_size(content: bytes) -> tuple[int, int]:
    """Returns the height and width."""
    kind = content[12:16]
    if kind == b"VP8X":
        if content[20] & _WEBP_IS_ANIMATED:
            raise ValueError("is an animated WebP: save one frame of it as PNG")
        width, height = (int.from_bytes(content[i : i + 3], "little") + 1 for i in (24, 27))
    elif kind == b"VP8L":
        (sizes,) = struct.unpack_from("<I", content, 21)
        width, height = sizes % 2**14 + 1, (sizes >> 14) % 2**14 + 1
    else:
        width, height = (size % 2**14 for size in struct.unpack_from("<HH", content, 26))
    return height, width
