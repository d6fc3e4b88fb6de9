import numpy as np
import polars as pl

from cxr_data.auditing.measures import file_facts, measure, unit
from cxr_data.images.header import claimed_size


def test_what_is_measured_of_an_image(cohort_of):
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[1, :, 16:] = 200
    pixels[2, ::2] = 200
    document = measure(cohort_of(pixels))
    np.testing.assert_allclose(document.brightness, [0, 100, 100])
    np.testing.assert_allclose(document.contrast, [0, 100, 100])
    assert document.sharpness[2] > 3 * document.sharpness[1] > 0
    assert len(set(document.digest)) == 3
    assert document.small[1, :, :8].max() == 0
    assert document.small[1, :, 8:].min() == 200


def test_unit_rows():
    rows = unit(np.array([[1, 2, 3], [5, 5, 5]]))
    np.testing.assert_allclose(rows, [[-(0.5**0.5), 0, 0.5**0.5], [0, 0, 0]], atol=1e-7)


def test_headers_are_read_without_decoding(two_classes):
    names = ["NORMAL/patient0_0.png", "NORMAL/patient0_1.png", "not/there.png"]
    facts = file_facts(two_classes, names)
    assert facts is not None
    assert facts["width"].to_list() == [48, 48, None]
    assert facts["height"].to_list() == [40, 40, None]
    assert facts["bytes"][0] == (two_classes / names[0]).stat().st_size
    assert facts["kind"].dtype == pl.String
    assert file_facts(two_classes, ["nothing.png"]) is None


def test_a_header_beyond_the_first_bytes_is_found(tmp_path):
    import cv2

    jpeg = cv2.imencode(".jpg", np.zeros((20, 30), np.uint8))[1].tobytes()
    comments = b"".join(b"\xff\xfe\xff\xff" + bytes(65_533) for _ in range(3))
    (tmp_path / "long.jpg").write_bytes(jpeg[:2] + comments + jpeg[2:])
    assert claimed_size(tmp_path / "long.jpg") == ("JPEG", 30, 20)
    (tmp_path / "cut.jpg").write_bytes(jpeg[:30])
    assert claimed_size(tmp_path / "cut.jpg") is None
