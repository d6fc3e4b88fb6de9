import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_data.images.header import BrokenImage
from cxr_data.images.raster import decode_png, decode_raster

RNG = np.random.default_rng(4)
GRAY = cv2.GaussianBlur(RNG.integers(0, 256, (70, 61)).astype(np.uint8), (0, 0), 2)
FORMS = {"BMP": "BMP", "GIF": "GIF", "WebP": "WEBP", "JPEG 2000": "JPEG2000"}


def saved(image: np.ndarray | Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(image: np.ndarray, before: bytes = b"", pixels: bytes | None = None, colour: int = 0) -> bytes:
    bits = 8 * image.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{image.itemsize}").tobytes() for row in image)
    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], bits, colour, 0, 0, 0)
    pixels = zlib.compress(rows) if pixels is None else pixels
    parts = [chunk(b"IHDR", head), before, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


MODES = {"BMP": "L RGB P", "GIF": "L RGB P", "WebP": "L RGB RGBA P", "JPEG 2000": "L LA RGB RGBA"}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind].split()])
def test_gray_is_gray_in_every_kind_and_mode(kind, mode):
    options = {"lossless": True} if kind == "WebP" else {}
    data = saved(Image.fromarray(GRAY).convert(mode), FORMS[kind], **options)
    np.testing.assert_array_equal(decode_raster(data, kind), GRAY)


@pytest.mark.parametrize("kind", list(FORMS))
def test_a_file_cut_anywhere_is_refused(kind):
    data = saved(GRAY, FORMS[kind], **({"lossless": True} if kind == "WebP" else {}))
    for at in np.linspace(4, len(data) - 8, 50).astype(int):
        with pytest.raises(BrokenImage, match=f"truncated {kind}|damaged {kind}"):
            decode_raster(data[:at], kind)


@pytest.mark.parametrize("kind", ["GIF", "WebP"])
def test_an_animation_is_refused(kind):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY), Image.fromarray(GRAY // 2)]
    data = saved(frames[0], FORMS[kind], save_all=True, append_images=frames[1:])
    with pytest.raises(BrokenImage, match=f"a {kind} of 3 pictures; one radiograph was expected"):
        decode_raster(data, kind)


def test_an_animated_png_is_refused():
    data = saved(Image.fromarray(GRAY), "PNG", save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    with pytest.raises(BrokenImage, match="a PNG of 2 pictures; one radiograph was expected"):
        decode_png(data)


def test_jpeg_2000_of_12_and_16_bits_keeps_its_depth():
    deep = GRAY.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_raster(saved(deep, "JPEG2000"), "JPEG 2000"), deep)


def test_a_bmp_of_os2_is_read():
    """Header of 12 bytes, size in 16 bits, palette of 3 bytes a colour (OS/2 1.x)."""
    palette = b"".join(bytes([i, i, i]) for i in range(256))
    rows = b"".join(row.tobytes() + bytes(-GRAY.shape[1] % 4) for row in GRAY[::-1])
    head = struct.pack("<IHHHH", 12, GRAY.shape[1], GRAY.shape[0], 1, 8)
    start = 14 + len(head) + len(palette)
    data = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows
    np.testing.assert_array_equal(decode_raster(data, "BMP"), GRAY)
    with pytest.raises(BrokenImage, match=r"truncated BMP|damaged BMP"):
        decode_raster(data[:-100], "BMP")


def test_a_bmp_stored_from_the_top_and_one_of_coded_runs():
    data = bytearray(saved(GRAY, "BMP"))
    data[22:26] = struct.pack("<i", -GRAY.shape[0])
    np.testing.assert_array_equal(decode_raster(bytes(data), "BMP"), GRAY[::-1])
    data[30] = 1
    with pytest.raises(BrokenImage, match=r"a BMP with coded runs \(RLE\)"):
        decode_raster(bytes(data), "BMP")


def test_a_bmp_of_a_version_that_pillow_does_not_read_is_not_called_cut():
    head = struct.pack("<IIIHH", 16, GRAY.shape[1], GRAY.shape[0], 1, 8)
    with pytest.raises(BrokenImage, match="a BMP of a kind that is not read: convert it to PNG"):
        decode_raster(b"BM" + struct.pack("<IHHI", 5000, 0, 0, 30) + head + bytes(4970), "BMP")


@pytest.mark.parametrize("spread", ["none", "zeros", "copied"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_significant_bits_of_a_png(spread, bits):
    """Left at their depth, or spread over 16 bits as the standard asks for (PNG, 11.3.2.7)."""
    values = (GRAY.astype(np.uint16) << (bits - 8)) + RNG.integers(0, 1 << (bits - 8), GRAY.shape).astype(np.uint16)
    high = values << (16 - bits)
    stored = {"none": values, "zeros": high, "copied": high | high >> bits}[spread]
    found = decode_png(png(stored.astype(np.uint16), chunk(b"sBIT", bytes([bits]))))
    assert np.abs(found / 65535 - values / (2**bits - 1)).max() < 2.0**-bits
    np.testing.assert_array_equal(decode_png(png(stored.astype(np.uint16))), stored)


def test_gamma_is_not_applied():
    np.testing.assert_array_equal(decode_png(png(GRAY, chunk(b"gAMA", struct.pack(">I", 100_000)))), GRAY)


def test_a_png_cut_or_damaged_anywhere_is_refused():
    data = saved(GRAY, "PNG")
    whole = decode_png(data)
    for at in np.linspace(9, len(data) - 13, 60).astype(int):
        with pytest.raises(BrokenImage):
            decode_png(data[:at])
        with pytest.raises(BrokenImage):
            decode_png(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
    np.testing.assert_array_equal(whole, GRAY)


@pytest.mark.parametrize("damage", ["cut", "checksum", "short", "late"])
def test_pixels_of_a_png_are_followed_to_their_own_checksum(damage):
    rows = b"".join(b"\0" + row.tobytes() for row in GRAY)
    stream = zlib.compress(rows)
    late = bytearray(stream)
    late[-60:-20] = RNG.bytes(40)
    pixels = {
        "cut": stream[: len(stream) // 2],
        "checksum": stream[:-4] + b"abcd",
        "short": zlib.compress(rows[:-50]),
        "late": bytes(late),
    }[damage]
    with pytest.raises(BrokenImage, match="damaged PNG: it cannot be decoded"):
        decode_png(png(GRAY, pixels=pixels))


def test_a_palette_without_all_colours_of_its_png_is_refused():
    indices = np.tile(np.arange(64, dtype=np.uint8), (48, 1))
    colours = np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 3).tobytes()
    np.testing.assert_array_equal(decode_png(png(indices, chunk(b"PLTE", colours), colour=3)), indices * 4)
    with pytest.raises(BrokenImage, match="beyond the 20 of its palette"):
        decode_png(png(indices, chunk(b"PLTE", colours[:60]), colour=3))
