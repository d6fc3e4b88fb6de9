import cv2
import numpy as np
import pytest

from cxr_data import open_cohort, prepare
from cxr_data.errors import BadInput
from cxr_data.preparation.outlines import boxes_of, contours, outlines, placed
from cxr_data.readers import chestxray14

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def test_the_official_boxes(shared_data):
    boxes = chestxray14.boxes(shared_data / "nih_1000_64")
    assert boxes.columns == ["image", "label", "x", "y", "width", "height"]
    assert boxes.height == 984
    counts = dict(boxes["label"].value_counts().iter_rows())
    assert (counts["Infiltration"], counts["Atelectasis"], len(counts)) == (123, 180, 8)
    first = boxes.row(0)
    assert first[:2] == ("00013118_008.png", "Atelectasis")
    assert first[2:] == pytest.approx((225.084745762712, 547.019216763771, 86.7796610169491, 79.1864406779661))
    assert (boxes["x"] + boxes["width"]).to_numpy().max() <= 1025


def test_box_tables_that_are_not_there_or_not_right(tmp_path):
    assert chestxray14.boxes(tmp_path).height == 0
    (tmp_path / "BBox_List_2017.csv").write_text(HEADER + "a.png,Rash,1,2,3,4,,,\n")
    with pytest.raises(BadInput, match="found Rash"):
        chestxray14.boxes(tmp_path)
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label\na.png,Mass\n")
    with pytest.raises(BadInput, match="a readable table of boxes"):
        chestxray14.boxes(tmp_path)
    (tmp_path / "BBox_List_2017.csv").write_text(HEADER + "a.png,Mass,one,2,3,4,,,\n")
    with pytest.raises(BadInput, match="a readable table of boxes"):
        chestxray14.boxes(tmp_path)


def test_boxes_lie_where_the_pixels_went():
    # The square of pixels 20..40 x 10..30 of an image 80 wide and 40 high.
    assert placed(20, 10, 20, 20, (80, 40), "squash") == pytest.approx((0.25, 0.25, 0.25, 0.5))
    assert placed(20, 10, 20, 20, (80, 40), "crop") == pytest.approx((0, 0.25, 0.5, 0.5))
    assert placed(20, 10, 20, 20, (80, 40), "pad") == pytest.approx((0.25, 0.375, 0.25, 0.25))


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_a_white_square_is_where_its_box_says(tmp_path, aspect):
    from cxr_data import read_image

    image = np.zeros((120, 240), np.uint8)
    image[30:90, 80:140] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    stored = read_image(tmp_path / "a.png", 64, aspect=aspect)
    inside = np.zeros((64, 64), bool)
    left, top, width, height = np.rint(np.multiply(placed(80, 30, 60, 60, (240, 120), aspect), 64)).astype(int)
    inside[top : top + height, left : left + width] = True
    assert stored[inside].mean() > 230
    assert stored[~inside].mean() < 5


def test_boxes_of_a_release_are_found_by_image_and_label(tmp_path, write_images):
    source = write_images(tmp_path / "nih", [f"images/{i:08d}_000.png" for i in range(30)])
    rows = [f"{i:08d}_000.png,{'Mass' if i % 2 else 'No Finding'},0,{i},50,M,PA" for i in range(30)]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    (source / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]) + "\n")
    (source / "BBox_List_2017.csv").write_text(HEADER + "00000003_000.png,Mass,256,512,128,256,,,\n")
    of = outlines(prepare(source, tmp_path / "cohort", pixel_size=32, show=False))
    (box,) = of(3, "Mass")
    np.testing.assert_allclose(box, [[0.25, 0.5], [0.375, 0.5], [0.375, 0.75], [0.25, 0.75]])
    assert of(3, "Nodule") == of(4, "Mass") == []


@pytest.mark.parametrize(("aspect", "expected"), [("squash", (0.25, 0.25)), ("crop", (0.2, 0.25))])
def test_boxes_of_vindr_lie_on_images_of_any_size(tmp_path, aspect, expected):
    source = tmp_path / "vindr"
    (source / "train").mkdir(parents=True)
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for number in range(20):
        edge = 40 + 2 * number
        pixels = np.random.default_rng(number).integers(0, 255, (edge, edge * 6 // 5), np.uint8)
        cv2.imwrite(str(source / "train" / f"i{number}.png"), pixels)
        for reader in ("R1", "R2"):
            rows.append(
                f"i{number},No finding,14,{reader},,,," if number % 2 else f"i{number},Mass,1,{reader},12,10,24,30"
            )
    (source / "train.csv").write_text("\n".join(rows))
    cohort = prepare(source, tmp_path / "cohort", pixel_size=32, aspect=aspect, show=False)
    boxes = boxes_of(cohort)
    assert boxes.height == 20  # each reader's own
    assert set(boxes["label"]) == {"Mass"}
    first = boxes.filter(boxes["row"] == cohort.table["image"].to_list().index("train/i0.png")).row(0, named=True)
    assert (first["x"], first["y"]) == pytest.approx(expected)
    assert first["height"] == pytest.approx(0.5)
    (source / "train.csv").write_text("\n".join([rows[0], "i0,Mass,1,R1,left,10,24,30"]))
    with pytest.raises(BadInput, match="numbers in x_min"):
        boxes_of(cohort)


def test_masks_become_outlines():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:10, 5:10] = mask[14:16, 2:4] = 1
    actual = contours(mask)
    assert len(actual) == 2
    assert max(len(polygon) for polygon in actual) == 16
    assert np.concatenate(actual).min() == pytest.approx(2.5 / 20)
    phantom = open_cohort("phantom:24", pixel_size=32)
    of = outlines(phantom)
    for row in range(24):
        for i, label in enumerate(phantom.labels):
            assert bool(of(row, label)) == bool(phantom.targets[row, i])


def test_lung_masks_are_outlined_whatever_the_label(tmp_path, write_images):
    names = [f"{label}/images/{label}-{i}.png" for label in ("COVID", "Normal") for i in range(20)]
    source = write_images(tmp_path / "radiography", names)
    (source / "COVID" / "masks").mkdir()
    mask = np.zeros((40, 48), np.uint8)
    mask[10:30, 12:36] = 255
    cv2.imwrite(str(source / "COVID" / "masks" / "COVID-3.png"), mask)
    cohort = prepare(source, tmp_path / "cohort", pixel_size=32, show=False)
    row = cohort.table["image"].to_list().index("COVID/images/COVID-3.png")
    (lungs,) = outlines(cohort)(row, "COVID")
    np.testing.assert_allclose([lungs.min(axis=0), lungs.max(axis=0)], [[0.25, 0.25], [0.75, 0.75]], atol=0.04)
    assert outlines(cohort)(row + 1, "COVID") == []
