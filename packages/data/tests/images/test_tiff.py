import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_data.images.header import BrokenImage
from cxr_data.images.read import read_image
from cxr_data.images.tiff import decode_tiff

RNG = np.random.default_rng(5)
GRAY: np.ndarray = np.asarray(cv2.GaussianBlur(RNG.integers(0, 256, (70, 61)).astype(np.uint8), (0, 0), 2))
DEEP = GRAY.astype(np.uint16) * 256 + RNG.integers(0, 256, GRAY.shape).astype(np.uint16)


def tiff(
    pixels: bytes,
    shape: tuple[int, ...] = GRAY.shape,
    *,
    order: str = "<",
    big: bool = False,
    pages: int = 1,
    tags: dict[int, Any] | None = None,
) -> bytes:
    """An uncompressed TIFF of one strip a page, written by the specification; ``tags`` change or add entries."""
    entries: dict[int, Any] = {256: shape[1], 257: shape[0], 258: 8, 259: 1, 262: 1, 277: 1, 278: shape[0]}
    start = 16 if big else 8
    entries |= {273: start, 279: len(pixels)} | (tags or {})
    entries = {tag: value for tag, value in sorted(entries.items()) if value is not None}
    count_form, word, entry_size = ("Q", "Q", 20) if big else ("H", "I", 12)
    body = pixels + bytes(len(pixels) % 2)
    at = start + len(body)
    directories = b""
    for page in range(pages):
        head = struct.pack(order + count_form, len(entries))
        size = len(head) + entry_size * len(entries) + struct.calcsize(word)
        extra, table = b"", b""
        for tag, value in entries.items():
            values = value if isinstance(value, tuple) else (value,)
            packed = struct.pack(f"{order}{len(values)}{word}", *values)
            kind = 16 if big else 4
            if len(packed) > struct.calcsize(word):
                packed, extra = struct.pack(order + word, at + size + len(extra)), extra + packed
            table += struct.pack(order + "HH" + word, tag, kind, len(values)) + packed
        after = at + size + len(extra)
        directories += head + table + struct.pack(order + word, after if page + 1 < pages else 0) + extra
        at = after
    mark = b"II" if order == "<" else b"MM"
    first = start + len(body)
    head = struct.pack(order + "HHHQ", 43, 8, 0, first) if big else struct.pack(order + "HI", 42, first)
    return mark + head + body + directories


def saved(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "TIFF", **options)
    return buffer.getvalue()


def spread(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("depth", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_every_depth_and_order_of_bytes_in_tiff_and_bigtiff(order, big, depth, white_is_zero):
    values = (
        (DEEP // 2 - 9000).astype(depth) if depth[0] == "i" else (GRAY if depth == "u1" else DEEP / 16).astype(depth)
    )
    stored = values.astype(order + depth)
    size, kind = 8 * stored.itemsize, {"u": 1, "i": 2, "f": 3}[depth[0]]
    data = tiff(stored.tobytes(), order=order, big=big, tags={258: size, 339: kind, 262: 0 if white_is_zero else 1})
    actual = decode_tiff(data)
    if depth in ("u1", "u2"):
        top = np.iinfo(depth).max
        np.testing.assert_array_equal(actual, top - values if white_is_zero else values)
    else:
        expected = 1 - spread(values) if white_is_zero else spread(values)
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_depths_that_are_packed(bits, white_is_zero):
    values = (DEEP >> (16 - bits)).astype(np.uint16)
    unpacked = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(values), -1).astype(np.uint8)
    data = tiff(np.packbits(unpacked, axis=1).tobytes(), tags={258: bits, 262: 0 if white_is_zero else 1})
    actual = decode_tiff(data)
    expected = values / (2**bits - 1)
    expected = 1 - expected if white_is_zero else expected
    np.testing.assert_allclose(actual / np.iinfo(actual.dtype).max, expected, atol=1 / np.iinfo(actual.dtype).max)


def test_a_depth_named_by_the_largest_sample_value():
    values = (DEEP >> 4).astype(np.uint16)
    actual = decode_tiff(tiff(values.tobytes(), tags={258: 16, 281: 4095}))
    np.testing.assert_allclose(actual / 65535, values / 4095, atol=1e-5)
    # A statistic of the image, which the specification makes of it too, is no depth.
    np.testing.assert_array_equal(decode_tiff(tiff(values.tobytes(), tags={258: 16, 281: 4000})), values)
    np.testing.assert_array_equal(decode_tiff(tiff(DEEP.tobytes(), tags={258: 16, 281: 4095})), DEEP)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation):
    from PIL import ImageOps

    data = tiff(GRAY.tobytes(), tags={274: orientation})
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode_tiff(data), expected)


COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("image", [GRAY, DEEP, np.dstack([GRAY] * 3), np.dstack([GRAY] * 4)])
def test_every_compression_of_libtiff(compression, image):
    expected = image if image.ndim == 2 else GRAY
    np.testing.assert_array_equal(decode_tiff(saved(image, compression=compression, strip_size=900)), expected)


@pytest.mark.parametrize("compression", [5, 8])
@pytest.mark.parametrize("image", [GRAY, DEEP, np.dstack([DEEP] * 3)])
def test_differences_between_neighbours_are_undone(compression, image):
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, 2]
    data = cv2.imencode(".tiff", image, options)[1].tobytes()
    np.testing.assert_array_equal(decode_tiff(data), GRAY if image is GRAY else DEEP)


def test_jpeg_strips():
    for image in (GRAY, np.dstack([GRAY] * 3)):
        actual = decode_tiff(saved(image, compression="jpeg", quality=95, strip_size=2000))
        assert np.abs(actual.astype(int) - GRAY).max() <= 12


def test_tiles_and_planes():
    padded = np.zeros((80, 64), np.uint8)
    padded[:70, :61] = GRAY
    tiles = [padded[top : top + 16, left : left + 32] for top in range(0, 80, 16) for left in (0, 32)]
    places = tuple(8 + 512 * i for i in range(10))
    tags = {322: 32, 323: 16, 324: places, 325: (512,) * 10, 273: None, 278: None, 279: None}
    np.testing.assert_array_equal(decode_tiff(tiff(b"".join(t.tobytes() for t in tiles), tags=tags)), GRAY)
    planes = GRAY.tobytes() * 3
    tags = {273: tuple(8 + GRAY.size * i for i in range(3)), 279: (GRAY.size,) * 3, 262: 2, 277: 3, 284: 2}
    np.testing.assert_array_equal(decode_tiff(tiff(planes, tags=tags | {258: (8, 8, 8)})), GRAY)


def test_a_palette_is_looked_up():
    palette = RNG.integers(0, 65536, (3, 256)).astype(np.uint16)
    data = tiff(GRAY.tobytes(), tags={262: 3, 320: tuple(palette.ravel().tolist())})
    rgb = palette[:, np.asarray(GRAY)].astype(np.float64)
    expected = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    assert np.abs(decode_tiff(data) - expected).max() <= 2


def test_several_pages_are_refused_and_thumbnails_are_not_pages():
    with pytest.raises(BrokenImage, match="a TIFF of 3 pages; one radiograph was expected"):
        decode_tiff(tiff(GRAY.tobytes(), pages=3))
    first = Image.fromarray(GRAY)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    with pytest.raises(BrokenImage, match="a TIFF of 2 pages"):
        decode_tiff(buffer.getvalue())
    buffer = io.BytesIO()
    thumbnail = Image.fromarray(GRAY[::4, ::4])
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(buffer, "TIFF", save_all=True, append_images=[thumbnail])
    np.testing.assert_array_equal(decode_tiff(buffer.getvalue()), GRAY)


def test_strips_in_a_ring_of_directories_end():
    data = bytearray(tiff(GRAY.tobytes(), pages=2))
    first = struct.unpack("<I", data[4:8])[0]
    data[-4:] = struct.pack("<I", first)
    with pytest.raises(BrokenImage):
        decode_tiff(bytes(data))


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "jpeg"])
def test_damaged_and_missing_strips_are_refused(compression):
    options = {"compression": compression, "strip_size": 1500} if compression != "raw" else {}
    image = np.tile(GRAY if compression == "jpeg" else DEEP, (2, 1))
    data = bytearray(saved(image, **options))
    if compression == "raw":
        size = image[:28].nbytes
        places = tuple(8 + i * size for i in range(5))
        data = bytearray(tiff(image.tobytes(), image.shape, tags={258: 16, 273: places, 278: 28, 279: (size,) * 5}))
    assert decode_tiff(bytes(data)).shape == image.shape
    with Image.open(io.BytesIO(bytes(data))) as opened:
        offsets, counts = (opened.tag_v2[tag] for tag in (273, 279))  # pyright: ignore[reportAttributeAccessIssue]
    assert len(offsets) > 3
    refused = tried = 0
    for at, count in zip(offsets, counts, strict=True):
        for fill in (bytes(count // 2), RNG.integers(0, 255, count // 2).astype(np.uint8).tobytes()):
            damaged = data.copy()
            damaged[at + count // 4 : at + count // 4 + len(fill)] = fill
            tried += 1
            try:
                decode_tiff(bytes(damaged))
            except BrokenImage:
                refused += 1
    if compression != "raw":  # bytes that are not coded are pixels, whatever they are
        assert refused >= 0.95 * tried
    for cut in (offsets[0] + 5, offsets[2] + 3, max(offsets) + 5):
        with pytest.raises(BrokenImage):
            decode_tiff(bytes(data[:cut]))
    for values, size in ((offsets, 4), (counts, 4), (counts, 2)):
        packed = struct.pack(f"<{len(values)}{'I' if size == 4 else 'H'}", *values)
        at = bytes(data).find(packed)
        if at < 0:
            continue
        for number in (0, 2, len(values) - 1):
            gone = data.copy()
            gone[at + number * size : at + (number + 1) * size] = bytes(size)
            with pytest.raises(BrokenImage, match="strips or tiles are missing"):
                decode_tiff(bytes(gone))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({262: 5, 277: 4, 258: (8, 8, 8, 8)}, "a TIFF of CMYK"),
        ({262: 8, 277: 3, 258: (8, 8, 8)}, r"CIE L\*a\*b\*"),
        ({259: 4}, "a fax of black and white"),
        ({259: 50000}, "Zstandard"),
        ({259: 77}, "method 77"),
        ({277: 5, 258: (8,) * 5}, "5 samples per pixel"),
        ({259: 7, 262: 2, 277: 4, 258: (8,) * 4}, "JPEG of 8 bits, 4 channels, 1 planes"),
        ({339: 6, 258: 64}, "64 bits a sample"),
        ({258: (8, 16), 277: 2}, "16 and 8 bits"),
        ({273: (8, 8), 279: (100, 100), 278: 35}, "two of its strips"),
        ({273: None}, "strips or tiles are missing"),
        ({279: 100}, "a strip or tile holds 100 bytes instead of 4270"),
        ({256: None}, "does not say how large"),
        ({257: 8}, "too small"),
        ({256: 60_000, 257: 50_000}, "more than the 100 million"),
        ({32997: 4}, "a TIFF of 4 pages"),
    ],
)
def test_what_is_not_read_is_named(tags, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_tiff(tiff(GRAY.tobytes(), tags=tags))


ROUGH = np.clip(GRAY.astype(np.int64) * 257 * 2 - 32768, 0, 65535).astype(np.uint16)


@pytest.mark.parametrize(
    ("pixels", "shape", "tags", "reason"),
    [
        (DEEP.byteswap().tobytes(), DEEP.shape, {258: 16}, "order of bytes"),
        (DEEP.tobytes(), DEEP.shape[::-1], {258: 16}, "height and width"),
        (DEEP.tobytes(), DEEP.shape, {258: 8}, "where its header needs"),
        (DEEP.tobytes(), DEEP.shape, {258: None}, "where its header needs"),
        (DEEP.tobytes() * 2, DEEP.shape, {258: 16}, "where its header needs"),
        (ROUGH.tobytes(), DEEP.shape, {258: 16, 339: 2}, "signed"),
        ((ROUGH ^ 0x8000).tobytes(), DEEP.shape, {258: 16}, "signed"),
        (np.repeat(DEEP[None], 3, 0).tobytes(), DEEP.shape, {258: (16,) * 3, 262: 2, 277: 3}, "colours"),
        (zlib.compress(DEEP.tobytes()), DEEP.shape, {258: 16, 259: 8, 317: 2}, "differences"),
    ],
)
def test_a_directory_that_the_pixels_contradict_is_refused(pixels, shape, tags, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_tiff(tiff(pixels, shape, tags=tags))


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_differences_of_floats_are_those_of_their_bits(kind):
    values = (DEEP / 7).astype(kind)
    bits = values.view(f"u{values.itemsize}")
    differences = np.diff(bits, axis=1, prepend=bits.dtype.type(0))
    tags = {258: 8 * values.itemsize, 339: 3, 259: 8, 317: 2}
    np.testing.assert_allclose(
        decode_tiff(tiff(zlib.compress(differences.tobytes()), tags=tags)), spread(values), atol=1e-6
    )


def test_values_that_are_not_numbers_are_refused():
    values = GRAY.astype(np.float32)
    values[3, 3] = np.nan
    with pytest.raises(BrokenImage, match="values that are not numbers"):
        decode_tiff(tiff(values.tobytes(), tags={258: 32, 339: 3}))


def test_no_mutation_of_a_header_is_more_than_refused(tmp_path):
    whole = bytearray(tiff(DEEP.tobytes(), tags={258: 16, 305: 7}))
    (directory,) = struct.unpack("<I", whole[4:8])
    for _ in range(1500):
        data = whole.copy()
        for at in RNG.integers(directory, len(data), 1 + RNG.integers(4)):
            data[at] = RNG.integers(256)
        (tmp_path / "a.tif").write_bytes(bytes(data))
        with suppress(BrokenImage):
            read_image(tmp_path / "a.tif", 32)
