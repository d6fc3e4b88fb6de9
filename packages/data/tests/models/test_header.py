import pytest

from cxr_data.models.header import parent, places_of, portable


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("phantom:500", "phantom:500"),
        ("/home/me/data/chest_xray#NORMAL,VIRAL", "chest_xray#NORMAL,VIRAL"),
        ("cohorts/mine@2/5", "mine@2/5"),
        ("a/x.pth#teacher+b/y.pth", "x.pth#teacher+y.pth"),
        (["/a/b", "c"], ["b", "c"]),
    ],
)
def test_configs_travel_without_paths(value, expected) -> None:
    assert portable({"data": value, "name": "a/b", "lr": 0.1}) == {"data": expected, "name": "a/b", "lr": 0.1}


def test_parents_are_found_again_though_headers_say_no_place(tmp_path):
    file = tmp_path / "runs" / "teacher" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    entry = parent("teacher", file)
    assert entry["path"] == "teacher/model.safetensors"
    assert places_of([entry, {"role": "start", "path": "x", "sha256": "of another process"}]) == [file]
