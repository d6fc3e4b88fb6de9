import gzip
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_data.images.header import BrokenImage, claimed_size, first_bytes, image_kind, inspect, read_content

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8)


def encoded(suffix: str, image: np.ndarray = IMAGE) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".png", "PNG"), (".tiff", "TIFF"), (".bmp", "BMP")])
def test_kind_and_size_are_read_without_decoding(suffix, kind):
    assert inspect(encoded(suffix)) == (kind, 56, 40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"file,label\nperson1.png,normal\n", "not an image (text file?)"),
        ("un texte accentué, pas une image".encode(), "not an image (text file?)"),
        (b"<!DOCTYPE html><html>Sign in</html>", "not an image (a web page saved in its place?)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image (a Git LFS pointer: run `git lfs pull`)"),
        (b"PK\x03\x04" + bytes(40), "not an image (a zip archive?)"),
        (b"P5 24 24 255\n" + bytes(576), "a picture in PGM format, which is not read: convert it to PNG"),
        *(
            (name + b" 24 24 255 " + bytes(576), f"a picture in {kind} format, which is not read: convert it to PNG")
            for name, kind in (
                (b"P4", "PBM"),
                (b"P7", "PAM"),
                (b"Pf", "PFM"),
                (b"II\xbc\1", "JPEG XR"),
                (b"qoif", "QOI"),
            )
        ),
        (b"\0\0\0\x1cftypavif" + bytes(40), "a picture in AVIF, which is not read: convert it to PNG"),
        (b"\0\0\0\x1cftypheic" + bytes(40), "a picture in HEIF, which is not read: convert it to PNG"),
        (b"\xff\x0a" + bytes(40), "a picture in JPEG XL format, which is not read: convert it to PNG"),
        (bytes(1000), "nothing but zero bytes (an interrupted copy?)"),
        (
            bytes(range(1, 200)),
            "not an image of a known kind (JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000, DICOM)",
        ),
        (encoded(".jpg")[:30], "truncated JPEG: it ends within its header"),
        (encoded(".png")[:18], "truncated PNG: it ends within its header"),
        (encoded(".tiff")[:200], "truncated TIFF: it ends within its header"),
        (encoded(".png", IMAGE[:15]), "56 x 15 pixels, too small for a radiograph"),
    ],
)
def test_what_is_no_image_is_named_in_plain_words(data, reason):
    with pytest.raises(BrokenImage) as caught:
        inspect(data)
    assert str(caught.value) == reason


def test_a_huge_size_is_refused_from_the_header_alone():
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 50_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    with pytest.raises(BrokenImage, match="60000 x 50000 pixels, more than the 100 million allowed"):
        inspect(png + encoded(".png")[33:])


def test_a_jpeg_with_an_embedded_thumbnail_reports_the_outer_size():
    jpeg, thumbnail = encoded(".jpg"), encoded(".jpg", IMAGE[:20, :24])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert inspect(jpeg[:2] + segment + jpeg[2:]) == ("JPEG", 56, 40)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "JPEG2000", "PNG", "BMP", "TIFF", "JPEG"])
def test_every_kind_that_is_read_is_told_from_its_first_bytes(form):
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, form)
    kind = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}.get(form, form)
    assert image_kind(buffer.getvalue()[:512]) == kind
    assert inspect(buffer.getvalue()) == (kind, 56, 40)


def test_a_file_in_gzip_is_unpacked(tmp_path):
    (tmp_path / "a.png.gz").write_bytes(gzip.compress(encoded(".png")))
    assert read_content(tmp_path / "a.png.gz") == encoded(".png")
    assert first_bytes(tmp_path / "a.png.gz") == encoded(".png")[:512]
    assert claimed_size(tmp_path / "a.png.gz") == ("PNG", 56, 40)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(encoded(".png"))[:-30])
    with pytest.raises(BrokenImage, match="a damaged gzip file"):
        read_content(tmp_path / "cut.gz")
