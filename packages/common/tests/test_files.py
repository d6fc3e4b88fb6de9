import errno
import hashlib
import json

import pytest

from cxr_common.errors import BadInput
from cxr_common.files import sha256, whole_file, write_json


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with whole_file(target, "w") as file:
            file.write("new")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_the_users_to_mend(tmp_path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left on device"):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_and_a_name_as_long_as_may_be(tmp_path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInput, match="expected a file to write, found a folder"):
        write_json(tmp_path / "folder.csv", {})
    write_json(tmp_path / f"{'l' * 250}.json", {})


def test_written_whole_into_new_folders(tmp_path) -> None:
    target = tmp_path / "b" / "c" / "a.json"
    write_json(target, {"x": [1, None]})
    assert json.loads(target.read_text()) == {"x": [1, None]}
    assert sha256(target) == hashlib.sha256(target.read_bytes()).hexdigest()
    assert target.stat().st_mode & 0o777 == (tmp_path / "b").stat().st_mode & 0o666


def test_nan_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"auroc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="write"), whole_file(tmp_path / "file" / "a.txt", "w"):
        raise AssertionError("must not be opened")
