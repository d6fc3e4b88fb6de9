import cv2
import numpy as np

from cxr_eval.explain import gallery
from cxr_eval.predictions import Answers


def answers(p, threshold=0.5):
    p = np.array(p, np.float64)[:, None]
    return Answers(p, p >= threshold)


def test_the_surest_of_each_sort_come_first_and_unknown_ones_never():
    p = [0.9, 0.8, 0.99, 0.95, 0.7, 0.1, 0.3, 0.05, 0.99, 0.02]
    t = [1, 1, 1, 0, 0, 1, 1, 0, np.nan, np.nan]
    actual = gallery.surest(np.array(t, np.float32)[:, None], answers(p), 0, 2)
    assert [(image, kind) for image, kind, _ in actual] == [
        (2, "right"),
        (0, "right"),
        (3, "wrong"),
        (4, "wrong"),
        (5, "wrong"),
        (6, "wrong"),
    ]
    assert "false alarm" in actual[2][2]
    assert "miss" in actual[4][2]


def test_equals_come_in_the_order_of_the_images():
    actual = gallery.surest(np.ones((5, 1), np.float32), answers([0.7] * 5), 0, 3)
    assert [image for image, _, _ in actual] == [0, 1, 2]
    assert gallery.surest(np.full((5, 1), np.nan, np.float32), answers([0.7] * 5), 0, 3) == []


def decoded(png):
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_a_strip_shows_radiograph_maps_and_lesion():
    radiograph = np.full((64, 64), 128, np.uint8)
    saliency, lesion = np.zeros((32, 32)), np.zeros((64, 64), np.uint8)
    saliency[:16] = 1
    lesion[16:48, 16:48] = 1
    picture = decoded(gallery.strip(radiograph, [saliency, np.zeros((32, 32))], lesion))
    tile, gap = gallery.TILE, 4
    assert picture.shape == (tile, 3 * tile + 2 * gap, 3)
    plain, warm, empty = (picture[:, i * (tile + gap) : i * (tile + gap) + tile] for i in range(3))
    np.testing.assert_array_equal(plain, empty)  # an empty map hides nothing
    assert np.ptp(plain[5, 5]) == 0
    assert abs(int(plain[5, 5, 0]) - 128) < 6
    assert np.ptp(warm[5, 5].astype(int)) > 30
    np.testing.assert_array_equal(warm[-5, 5], plain[-5, 5])
    outline = (plain == (255, 255, 0)).all(axis=2)
    rows, columns = np.nonzero(outline)
    assert abs(rows.min() - tile / 4) <= 1
    assert abs(columns.max() - tile * 3 / 4) <= 1
    assert outline.sum() < 4 * tile
    bare = decoded(gallery.strip(radiograph, [], np.zeros((8, 8), np.uint8)))
    assert not (bare == (255, 255, 0)).all(axis=2).any()


def test_a_caption_names_the_models_and_no_file():
    text = gallery.caption("present, called", ["teacher", "student"], ["student"], outlined=True, row=1)
    assert text == (
        "Present, called. From left: radiograph, teacher, student. The lesion is outlined. "
        "No colour: nothing in the image speaks for the label in student. Row 1 of predictions.parquet."
    )
