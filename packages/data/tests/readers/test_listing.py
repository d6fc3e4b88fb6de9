import os
import sys

import pytest

from cxr_data.errors import BadInput
from cxr_data.folders import inside, scan
from cxr_data.readers.listing import image_files, one_hot, order_classes


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["COVID", "NORMAL"], ("NORMAL", "COVID")),
        (["Pneumonia", "No Finding"], ("No Finding", "Pneumonia")),
        (["1_abnormal", "0_normal"], ("0_normal", "1_abnormal")),
        (["abnormal", "Healthy", "TB"], ("Healthy", "TB", "abnormal")),
        (["positive", "negative"], ("negative", "positive")),
        (["b", "a"], ("a", "b")),
    ],
)
def test_healthy_classes_go_first(names, ordered):
    assert order_classes(names) == ordered


def test_one_hot_columns():
    first, second = one_hot(["b", "a", "b"], ("a", "b"))
    assert (first.name, first.to_list()) == ("label:a", [0.0, 1.0, 0.0])
    assert (second.name, second.to_list()) == ("label:b", [1.0, 0.0, 1.0])


def test_files_are_listed_in_order_without_litter(tmp_path, write_images):
    write_images(tmp_path, ["b/2.png", "a.jpg", "b/10.PNG", "__MACOSX/x.png"])
    (tmp_path / "b" / "._2.png").write_bytes(b"")
    (tmp_path / "b" / "readme.txt").write_text("hello")
    (tmp_path / "b" / "1.2.840.113").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (tmp_path / "b" / "data.1").write_bytes(bytes(300))
    assert image_files(tmp_path) == ["a.jpg", "b/1.2.840.113", "b/10.PNG", "b/2.png"]
    assert [file.path for file in scan(tmp_path)][-1] == "b/readme.txt"


def test_a_folder_without_images_says_what_is_there(tmp_path):
    for name in ("a.docx", "b.docx", "c.csv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(BadInput, match=r"2 x .docx, 1 x .csv"):
        image_files(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_a_folder_of_names_that_are_not_utf8_says_so(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    with pytest.raises(BadInput, match=r"UTF-8 file names, found \\xff\.png"):
        image_files(tmp_path)


@pytest.mark.parametrize("name", ["../other/a.png", "/etc/passwd", "a/../../b.png", "..", "a\\..\\..\\b.png"])
def test_entries_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="paths inside the folder"):
        inside(tmp_path, name, tmp_path / "manifest.csv")


def test_entries_are_normalised(tmp_path):
    assert inside(tmp_path, "./a//b/../c.png", tmp_path) == "a/c.png"
