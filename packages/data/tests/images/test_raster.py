import contextlib
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


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_bmp_whose_pixels_begin_elsewhere_is_refused(mode):
    data = saved(GRAY if mode == "L" else np.stack([GRAY] * 3, axis=-1), "BMP")
    np.testing.assert_array_equal(decode_raster(data + b"\0\0", "BMP"), GRAY)  # filled up to whole words
    start = int.from_bytes(data[10:14], "little")
    gap = data[:10] + struct.pack("<I", start + 64) + data[14:start] + bytes(64) + data[start:]
    np.testing.assert_array_equal(decode_raster(gap, "BMP"), GRAY)
    for wrong in (0, 54 if mode == "L" else 40, start - 4, start + 60, start + 68):
        with pytest.raises(BrokenImage, match=r"do not begin where its header says|(truncated|damaged) BMP"):
            decode_raster(gap[:10] + struct.pack("<I", wrong) + gap[14:], "BMP")


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
    actual = decode_png(png(stored.astype(np.uint16), chunk(b"sBIT", bytes([bits]))))
    assert np.abs(actual / 65535 - values / (2**bits - 1)).max() < 2.0**-bits
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


ODD_CHUNKS = {
    "short": chunk(b"gAMA", b"\0"),
    "twice": 2 * chunk(b"gAMA", struct.pack(">I", 45455)),
    "no profile": chunk(b"iCCP", b"icc\0\0no profile"),
    "out of range": chunk(b"tIME", b"\xff" * 7),
    "too long": chunk(b"bKGD", bytes(7)),
    "palette of gray": chunk(b"PLTE", bytes(6)),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "bomb": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000))),
    "unknown": chunk(b"ABCD", b"x"),
}


@pytest.mark.parametrize("odd", ODD_CHUNKS)
def test_chunks_beside_the_pixels_of_a_png_neither_hurt_nor_are_spoken_of(odd, capfd):
    np.testing.assert_array_equal(decode_png(png(GRAY, ODD_CHUNKS[odd])), GRAY)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["cut", "window", "filter", "more rows", "fewer rows"])
def test_libpng_says_nothing_of_damaged_pixels(damage, capfd):
    rows = b"".join(b"\0" + row.tobytes() for row in GRAY)
    packed = {
        "cut": zlib.compress(rows)[:-900],
        "window": b"\x18\x19" + zlib.compress(rows)[2:],
        "filter": zlib.compress(b"\x09" + rows[1:]),
        "more rows": zlib.compress(rows + rows),
        "fewer rows": zlib.compress(rows[: len(rows) // 2]),
    }
    with contextlib.suppress(BrokenImage):  # too many rows hurt nothing
        decode_png(png(GRAY, pixels=packed[damage]))
        assert damage == "more rows"
    assert capfd.readouterr() == ("", "")


def test_a_picture_beside_an_animation_of_one_is_refused():
    other = [Image.fromarray(255 - GRAY)]
    data = saved(Image.fromarray(GRAY), "PNG", save_all=True, append_images=other, default_image=True)
    with pytest.raises(BrokenImage, match="a PNG of 2 pictures"):
        decode_png(data)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_of_a_png_is_obeyed(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: GRAY, 3: GRAY[::-1, ::-1], 6: np.rot90(GRAY, -1), 8: np.rot90(GRAY)}[orientation]
    np.testing.assert_array_equal(decode_png(saved(GRAY, "PNG", exif=exif)), turned)


@pytest.mark.parametrize(("way", "reason"), [("swapped", "order of bytes"), ("signed", "signed")])
def test_values_of_a_png_written_as_memory_holds_them_are_refused(way, reason):
    deep = GRAY.astype(np.uint16) * 256 + RNG.integers(0, 256, GRAY.shape).astype(np.uint16)
    wrong = deep.byteswap() if way == "swapped" else deep - np.uint16(int(np.median(deep)))
    np.testing.assert_array_equal(decode_png(png(deep)), deep)
    with pytest.raises(BrokenImage, match=reason):
        decode_png(png(wrong))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 95}])
def test_a_hole_in_a_webp_is_refused_and_black_areas_are_not(options):
    image = np.pad(np.kron(GRAY, np.ones((8, 8), np.uint8)), ((0, 900), (0, 900)))
    data = saved(image, "WebP", **options)
    assert np.abs(decode_raster(data, "WebP").astype(int) - image).mean() < 2
    at = len(data) // 3
    with pytest.raises(BrokenImage, match="damaged WebP"):
        decode_raster(data[:at] + bytes(1024) + data[at + 1024 :], "WebP")


DAMAGE = {
    "zeros": lambda data, at: data[:at] + bytes(64) + data[at + 64 :],
    "twice": lambda data, at: data[: at + 128] + data[at:-128],
    "exchanged": lambda data, at: data[:at] + data[at + 99 : at + 198] + data[at : at + 99] + data[at + 198 :],
    "random": lambda data, at: data[:at] + RNG.bytes(600) + data[at + 600 :],
}


@pytest.mark.parametrize(
    ("options", "damage"),
    [
        *(({"quality": 90}, damage) for damage in DAMAGE),
        *(({"lossless": True, "method": 0}, damage) for damage in ("zeros", "twice")),  # else codes find back into step
    ],
)
def test_codes_of_a_webp_end_with_its_bytes(options, damage):
    image = cv2.resize(GRAY, (300, 260), interpolation=cv2.INTER_CUBIC) // 2 + RNG.integers(0, 9, (260, 300), np.uint8)
    data, seen = saved(image, "WebP", **options), 0
    assert np.abs(decode_raster(data, "WebP") - image.astype(int)).mean() < 2
    for at in np.linspace(len(data) // 5, len(data) - 700, 10).astype(int):
        try:
            decode_raster(DAMAGE[damage](data, at), "WebP")
        except BrokenImage:
            seen += 1
    assert seen >= 8


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (128, 128)}, {"irreversible": True}])
def test_a_hole_in_a_jpeg_2000_file_is_refused_as_in_dicom(options):
    image = cv2.resize(GRAY, (400, 360)) // 2 + RNG.integers(0, 30, (360, 400)).astype(np.uint8)
    data = saved(image, "JPEG2000", **options)
    decode_raster(data, "JPEG 2000")
    for at in np.linspace(300, len(data) - 900, 8).astype(int):
        with pytest.raises(BrokenImage, match=r"^(damaged|truncated) JPEG 2000"):
            decode_raster(data[:at] + bytes(512) + data[at + 512 :], "JPEG 2000")
