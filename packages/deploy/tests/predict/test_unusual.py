import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from cxr_data.images.read import read_image
from cxr_deploy.predict import unusual


def test_real_radiographs_raise_no_alarm(shared_data):
    """Neither the official test images of children nor the COVID-19 collection shaped the average radiograph."""
    files = sorted((shared_data / "kermany_pneumonia" / "test").rglob("*.jpeg"))[::6]
    files += sorted((shared_data / "covid_cxr").rglob("*.jpg"))
    files += sorted((shared_data / "formats").rglob("*.jpeg")) + sorted((shared_data / "formats").rglob("*.png"))
    alarms = {file.name: actual for file in files if (actual := unusual.warnings(file, read_image(file, 64)))}
    assert len(files) > 200
    assert len(alarms) <= 0.01 * len(files), alarms


def test_inverted_radiographs_are_noticed(shared_data):
    files = (
        sorted((shared_data / "covid_cxr").rglob("*.jpg"))
        + sorted((shared_data / "kermany_pneumonia" / "test").rglob("*.jpeg"))[::20]
    )
    actual = [unusual.of_pixels(255 - read_image(file, 64)) for file in files]
    assert sum("inverted" in " ".join(one) for one in actual) == len(files)


def test_a_monochrome1_file_is_inverted_by_its_reader_and_its_tag_alone(shared_data):
    """The fake says MONOCHROME1 of pixels that are not: read as it says, it is inverted."""
    real, fake = sorted((shared_data / "formats" / "dicom").iterdir())
    assert unusual.of_pixels(read_image(real, 64)) == []
    assert "inverted" in unusual.of_pixels(read_image(fake, 64))[0]


def test_photographs_are_noticed(tmp_path):
    for name in ("china.jpg", "flower.jpg"):
        for suffix in (".jpg", ".png", ".bmp"):
            path = tmp_path / f"photo{suffix}"
            cv2.imwrite(str(path), cv2.cvtColor(load_sample_image(name), cv2.COLOR_RGB2BGR))
            assert "a colour image" in unusual.of_file(path)


def test_gray_images_stored_in_colour_are_not_colour(tmp_path, shared_data):
    gray = cv2.imread(str(shared_data / "formats" / "nih_png" / "00000001_000.png"), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    for suffix in (".jpg", ".png", ".bmp"):
        path = tmp_path / f"gray{suffix}"
        cv2.imwrite(str(path), cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR))
        assert unusual.of_file(path) == []


def test_odd_shapes_and_blank_images_are_noticed(tmp_path):
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "long.png"), rng.integers(0, 256, (40, 100), np.uint8))
    assert "odd shape" in unusual.of_file(tmp_path / "long.png")[0]
    assert "nearly blank" in unusual.of_pixels(rng.integers(100, 104, (64, 64), np.uint8))[0]
    assert "upright frontal" in unusual.of_pixels(rng.integers(0, 256, (64, 64), np.uint8))[0]


def test_lateral_views_are_known_by_their_header(tmp_path, shared_data):
    from pydicom import dcmread

    dataset = dcmread(sorted((shared_data / "formats" / "dicom").iterdir())[0])
    dataset.ViewPosition = "LL"
    dataset.save_as(tmp_path / "lateral.dcm")
    assert unusual.of_file(tmp_path / "lateral.dcm") == ["a lateral projection by its header (LL)"]


def test_resemblance_is_a_correlation():
    average = np.rint(unusual.AVERAGE).astype(np.uint8)
    assert unusual.resemblance(average) == pytest.approx(1, abs=1e-3)
    assert unusual.resemblance(255 - average) == pytest.approx(-1, abs=1e-3)
    assert unusual.resemblance(np.full((32, 32), 9, np.uint8)) == 0
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 16), np.uint8)
    expected = np.corrcoef(image.ravel(), unusual.AVERAGE.ravel())[0, 1]
    assert unusual.resemblance(image) == pytest.approx(expected)
