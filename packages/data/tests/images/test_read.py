import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_data.errors import BadInput
from cxr_data.images.header import BrokenImage
from cxr_data.images.read import check_mapping, check_pixel_size, read_image

SMOOTH = cv2.resize(np.random.default_rng(1).integers(20, 236, (8, 8), np.uint8), (64, 64))


def store(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def store_pil(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_gray_comes_back_unchanged(tmp_path, suffix):
    np.testing.assert_array_equal(read_image(store(tmp_path / f"a.{suffix}", SMOOTH), 64), SMOOTH)


def test_every_way_to_store_a_gray_image_gives_the_same_gray(tmp_path):
    gray = Image.fromarray(SMOOTH)
    palette = gray.convert("P")
    files = {
        "rgb": store_pil(tmp_path / "rgb.png", gray.convert("RGB")),
        "alpha": store_pil(tmp_path / "alpha.png", gray.convert("RGBA")),
        "gray alpha": store_pil(tmp_path / "la.png", gray.convert("LA")),
        "palette": store_pil(tmp_path / "palette.png", palette),
        "16 bit": store(tmp_path / "deep.png", SMOOTH.astype(np.uint16) * 257),
        "16 bit rgb": store(tmp_path / "deep_rgb.png", np.dstack([SMOOTH.astype(np.uint16) * 257] * 3)),
        "16 bit tiff": store(tmp_path / "deep.tiff", SMOOTH.astype(np.uint16) * 257),
    }
    for name, file in files.items():
        difference = np.abs(read_image(file, 64).astype(int) - SMOOTH)
        assert difference.max() <= 1, name


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_any_colour_model(tmp_path, mode):
    file = store_pil(tmp_path / "a.jpg", Image.fromarray(SMOOTH).convert("RGB").convert(mode), quality=95)
    assert np.abs(read_image(file, 64).astype(int) - SMOOTH).mean() < 2.5


def test_the_content_decides_the_kind_not_the_name(tmp_path):
    file = store(tmp_path / "a.png", SMOOTH).rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image(file, 64), SMOOTH)


def test_sixteen_bits_keep_their_full_range_and_are_rounded_only_once(tmp_path):
    # Two columns average to 129.5 * 257: truncating each to 8 bits first would give 129.
    deep = np.tile(np.array([129 * 257 + 40, 130 * 257 + 40], np.uint16), (64, 32))
    deep[0, :2] = 0, 65535
    pixels = read_image(store(tmp_path / "a.png", deep), 32)
    assert set(np.unique(pixels[1:])) == {130}
    assert pixels[0, 0] == round((0 + 65535 + deep[1, :2].sum(dtype=int)) / 4 / 257)


def test_shrinking_averages_areas(tmp_path):
    checkered = np.indices((64, 64)).sum(axis=0) % 2 * 200
    checkered[:, :32] = 0
    assert set(np.unique(read_image(store(tmp_path / "a.png", checkered.astype(np.uint8)), 32))) == {0, 100}


def test_a_picture_that_vanishes_in_eight_bits_is_blank(tmp_path):
    faint = np.full((64, 64), 3000, np.uint16)
    faint[20:40] += 5
    with pytest.raises(BrokenImage, match="blank"):
        read_image(store(tmp_path / "a.png", faint), 32)
    assert np.ptp(read_image(tmp_path / "a.png", 32, bits=16)) == 5


def test_exif_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: the viewer turns it by 90 degrees clockwise
    file = store_pil(tmp_path / "a.jpg", Image.fromarray(SMOOTH), quality=95, exif=exif)
    assert np.abs(read_image(file, 64).astype(int) - np.rot90(SMOOTH, -1)).mean() < 2


def test_a_large_jpeg_decoded_at_reduced_scale_stays_close_to_the_full_one(tmp_path):
    large = cv2.resize(SMOOTH, (640, 512), interpolation=cv2.INTER_CUBIC)
    file = store_pil(tmp_path / "a.jpg", Image.fromarray(large), quality=95)
    decoded = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    full = cv2.resize(decoded, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(read_image(file, 32).astype(int) - full).max() <= 2


def test_aspects(tmp_path):
    wide = np.zeros((40, 80), np.uint8)
    wide[:, :20], wide[:, 20:60], wide[:, 60:] = 50, 100, 150
    wide[20] = 0
    file = store(tmp_path / "a.png", wide)
    squashed, cropped, padded = (read_image(file, 40, aspect=a) for a in ("squash", "crop", "pad"))
    np.testing.assert_array_equal(squashed[0], np.repeat([50, 100, 150], [10, 20, 10]))
    assert set(np.unique(cropped)) == {0, 100}
    np.testing.assert_array_equal(padded[:, 0], np.repeat([0, 50, 25, 50, 0], [10, 10, 1, 9, 10]))


def test_percentiles_stretch_the_tissue_and_borders_do_not_count(tmp_path):
    narrow = (1000 + SMOOTH.astype(np.uint16) * 4)[:, :32]
    file = store(tmp_path / "a.png", narrow)
    assert read_image(file, 64, window="full").max() <= 8
    padded = read_image(file, 64, window="percentile", aspect="pad")
    assert padded[:, :16].max() == 0
    assert (padded[:, 16:48].min(), padded[:, 16:48].max()) == (0, 255)
    levels = np.sort(narrow.ravel())
    low, high = np.percentile(levels, [0.5, 99.5])
    expected = np.clip((narrow[30, 10] - low) / (high - low), 0, 1) * 255
    assert padded[30, 26] == pytest.approx(expected, abs=0.51)


def test_float_tiff_uses_its_own_range(tmp_path):
    file = store(tmp_path / "a.tiff", SMOOTH.astype(np.float32) * 7 - 300)
    expected = (SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH.astype(float)) * 255
    assert np.abs(read_image(file, 64) - expected).max() <= 0.51


def damaged_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[len(data) // 2] ^= 0x55
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"NORMAL, PNEUMONIA", "not an image (text file?)"),
        (damaged_png(), "damaged PNG: its checksums do not agree"),
    ],
)
def test_a_broken_file_says_why(tmp_path, data, reason):
    file = tmp_path / "a.jpeg"
    file.write_bytes(data)
    with pytest.raises(BrokenImage) as caught:
        read_image(file, 32)
    assert str(caught.value) == reason


def jpeg(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_jpeg_whose_scan_ends_early_is_broken_in_spite_of_its_end_marker(tmp_path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(cv2.resize(SMOOTH, (160, 128)), exif=exif)
    scan = data.rfind(b"\xff\xda")
    file = tmp_path / "a.jpg"
    file.write_bytes(data)
    read_image(file, size)
    file.write_bytes(data[: scan + (len(data) - scan) // 2] + b"\xff\xd9")
    with pytest.raises(BrokenImage, match="truncated JPEG: its scan ends early"):
        read_image(file, size)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_whole_jpeg_may_end_in_plain_gray(tmp_path, progressive):
    image = SMOOTH.copy()
    image[32:] = 128
    (tmp_path / "a.jpg").write_bytes(jpeg(image, progressive=progressive) + b"trailing bytes \xff\x02")
    assert (read_image(tmp_path / "a.jpg", 64)[40:] == 128).all()


def test_a_stray_marker_within_the_scan_of_a_jpeg_is_damage(tmp_path):
    data = bytearray(jpeg(SMOOTH))
    middle = (data.rfind(b"\xff\xda") + len(data)) // 2
    data[middle : middle + 2] = b"\xff\x17"
    (tmp_path / "a.jpg").write_bytes(bytes(data))
    with pytest.raises(BrokenImage, match="damaged JPEG: a marker where none may be"):
        read_image(tmp_path / "a.jpg", 32)


def test_libpng_says_nothing_of_a_damaged_file(tmp_path, capfd):
    (tmp_path / "a.png").write_bytes(damaged_png())
    with pytest.raises(BrokenImage):
        read_image(tmp_path / "a.png", 32)
    assert capfd.readouterr().err == ""


def test_a_blank_image_is_broken(tmp_path):
    with pytest.raises(BrokenImage, match="blank: every pixel has the same value"):
        read_image(store(tmp_path / "a.png", np.full((40, 40), 7, np.uint8)), 32)


def test_a_missing_file_is_broken(tmp_path):
    with pytest.raises(BrokenImage, match="cannot be read: No such file"):
        read_image(tmp_path / "gone.png", 32)


def test_unknown_options_are_refused_with_the_nearest_name():
    with pytest.raises(BadInput, match="did you mean squash"):
        check_mapping("squish", "voi")
    with pytest.raises(BadInput, match="did you mean percentile"):
        check_mapping("pad", "percentil")
    with pytest.raises(BadInput, match="16 to 4096"):
        check_pixel_size(8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": "voice"}, "did you mean voi"),
        ({"aspect": "Crop"}, "did you mean crop"),
        ({"bits": 12}, "expected 8 or 16 bits per pixel, found 12"),
        *(({"pixel_size": size}, "an image edge of 16 to 4096 pixels") for size in (0, -3, 5000, 31.5)),
    ],
)
def test_options_that_are_not_offered_are_refused(tmp_path, options, expected):
    cv2.imwrite(str(tmp_path / "a.png"), np.tile(np.arange(60, dtype=np.uint8), (50, 1)))
    with pytest.raises(BadInput, match=expected):
        read_image(tmp_path / "a.png", **{"pixel_size": 32, **options})
