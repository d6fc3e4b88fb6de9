import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from cxr_data.errors import BadInput
from cxr_data.files import refuse_unwritable, sha256, whole_file, whole_folder, write_json


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


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as beside:
        (beside / "a.txt").write_text(text)


def test_a_folder_is_replaced_whole_and_left_as_it_was_on_a_failure(tmp_path) -> None:
    folder = tmp_path / "runs" / "report"
    write(folder, "old")
    with pytest.raises(ZeroDivisionError), whole_folder(folder) as beside:
        (beside / "a.txt").write_text(f"half{1 / 0}")
    assert (folder / "a.txt").read_text() == "old"
    write(folder, "new")
    assert (folder / "a.txt").read_text() == "new"
    assert folder.stat().st_mode == folder.parent.stat().st_mode  # no private folder
    assert list(folder.parent.iterdir()) == [folder]


def test_the_folder_one_stands_in_can_be_written(tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(Path("."), "new")
    assert (tmp_path / "here" / "a.txt").read_text() == "new"


def test_leftovers_of_a_call_of_the_same_number_are_no_hindrance(tmp_path) -> None:
    for end in ("part", "old"):
        (tmp_path / f".report.{os.getpid()}.{end}").mkdir()
        (tmp_path / f".report.{os.getpid()}.{end}" / "a.txt").write_text("left")
    write(tmp_path / "report", "old")
    write(tmp_path / "report", "new")
    assert (tmp_path / "report" / "a.txt").read_text() == "new"


def test_what_a_killed_call_left_is_put_right_by_the_next(tmp_path) -> None:
    forgotten, at_work, foreign = (tmp_path / f".report.{name}.tmp" for name in ("abcd_123", "abcd_124", "abc.d_123"))
    for holder in (forgotten, at_work, foreign):
        (holder / "new").mkdir(parents=True)
    for path in (forgotten / "new", forgotten, foreign / "new", foreign):
        os.utime(path, (0, 0))
    between = tmp_path / ".report.abcd_125.tmp"  # killed between two renames: no report under its name
    write(between / "old", "old")
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "report") as beside:
        (beside / "missing").read_text()
    assert (tmp_path / "report" / "a.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"report", at_work.name, foreign.name}


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_name(tmp_path, monkeypatch) -> None:
    write(tmp_path / "report", "old")
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(BadInput, match="Permission denied"):
        write(tmp_path / "report", "new")
    assert (tmp_path / "report" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_folder_that_will_not_be_writable_is_told_beforehand(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="a folder this user may write to, found Not a directory"):
        refuse_unwritable(tmp_path / "file" / "report")
    refuse_unwritable(tmp_path / "a" / "b" / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("library", ["python", "torch", "rust"])
def test_a_full_disk_is_told_whatever_library_writes(tmp_path, library) -> None:
    """torch raises an error of its own while it closes its archive; polars and safetensors only quote the system."""
    (tmp_path / "state.pt").write_text("old")

    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            if library == "python":
                raise
            if library == "rust":
                raise RuntimeError("No space left on device (os error 28)") from None
            raise RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 704 vs 598") from error

    for place, opened in ((tmp_path / "state.pt", whole_file), (tmp_path / "folder", whole_folder)):
        with pytest.raises(BadInput, match="No space left") as caught, opened(place):
            write()
        assert caught.value.where == tmp_path
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt"}
    assert (tmp_path / "state.pt").read_text() == "old"
