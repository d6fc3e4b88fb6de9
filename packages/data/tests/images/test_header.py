import struct

import cv2
import numpy as np
import pytest

from cxr_data.images.header import BrokenImage, inspect

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
        (b"GIF89a" + bytes(40), "a GIF, which is not read: convert it to PNG"),
        (bytes(1000), "nothing but zero bytes (an interrupted copy?)"),
        (bytes(range(1, 200)), "not an image of a known kind (JPEG, PNG, TIFF, BMP, DICOM)"),
        (encoded(".jpg")[:-20], "truncated JPEG"),
        (encoded(".jpg")[:30], "truncated JPEG: it ends within its header"),
        (encoded(".png")[:-20], "truncated PNG"),
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
    png = bytearray(encoded(".png"))
    png[16:24] = struct.pack(">II", 60_000, 50_000)
    with pytest.raises(BrokenImage, match="60000 x 50000 pixels, more than the 100 million allowed"):
        inspect(bytes(png))


def test_a_jpeg_with_an_embedded_thumbnail_reports_the_outer_size():
    jpeg, thumbnail = encoded(".jpg"), encoded(".jpg", IMAGE[:20, :24])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert inspect(jpeg[:2] + segment + jpeg[2:]) == ("JPEG", 56, 40)
    with pytest.raises(BrokenImage, match="truncated JPEG"):  # the thumbnail's end marker does not count
        inspect((jpeg[:2] + segment + jpeg[2:])[:-30])
