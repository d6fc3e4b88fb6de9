import io

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_data.images.damage import check_jpeg
from cxr_data.images.header import BrokenImage


def picture(height: int = 480, width: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 12)
    return np.clip(128 + 400 * smooth + rng.normal(0, 6, (height, width)), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, mode: str = "L", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


KINDS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
}


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("shape", [(480, 400), (37, 401), (17, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_sound_streams_pass(kind, shape, mode):
    data = jpeg(picture(*shape), mode, **KINDS[kind])
    check_jpeg(data)
    check_jpeg(data + bytes(3))  # DICOM fragments are padded
    check_jpeg(jpeg(np.zeros(shape, np.uint8), mode, **KINDS[kind]))


@pytest.mark.parametrize("shape", [(480, 400), (37, 401)])
def test_what_opencv_writes_passes(shape):
    for quality in (30, 95, 100):
        check_jpeg(cv2.imencode(".jpg", picture(*shape), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_refused_and_nothing_is_printed(kind, capfd):
    data = jpeg(picture(), **KINDS[kind])
    for share in np.linspace(0.05, 0.999, 40):
        for cut in (data[: int(share * len(data))], data[: int(share * len(data))] + b"\xff\xd9"):
            with pytest.raises(BrokenImage, match="JPEG"):
                check_jpeg(cut)
    assert capfd.readouterr() == ("", "")


def test_a_scan_that_lacks_its_last_byte_is_refused():
    data = jpeg(picture())
    with pytest.raises(BrokenImage, match="truncated JPEG: its scan ends early"):
        check_jpeg(data[:-3] + data[-2:])
    with pytest.raises(BrokenImage, match="damaged JPEG: "):
        check_jpeg(data[:-2] + b"\x5a" + data[-2:])


@pytest.mark.parametrize(("fill", "least"), [("zero", 100), ("noise", 97)])
def test_overwritten_bytes_are_refused(fill, least):
    length = 400
    data = jpeg(picture())
    rng = np.random.default_rng(1)
    start = data.index(b"\xff\xda") + 12
    refused = 0
    for at in rng.integers(start, len(data) - length - 2, 100):
        other = bytes(length) if fill == "zero" else rng.bytes(length)
        try:
            check_jpeg(data[:at] + other + data[at + length :])
        except BrokenImage:
            refused += 1
    assert refused >= least


def test_zeros_in_a_progressive_scan_are_refused():
    data = jpeg(picture(), progressive=True)
    start = data.rindex(b"\xff\xda") + 10
    for at in range(start, len(data) - 600, (len(data) - start) // 20):
        with pytest.raises(BrokenImage, match=r"damaged JPEG|truncated JPEG"):
            check_jpeg(data[:at] + bytes(500) + data[at + 500 :])
