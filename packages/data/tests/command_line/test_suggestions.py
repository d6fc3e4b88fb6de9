import shlex

import pytest

from cxr_data import open_cohort, pixel_size_for, save
from cxr_data.cohorts.cohort import note_size
from cxr_data.command_line.suggestions import suggest
from cxr_data.sources import default_size


def test_what_the_next_command_takes_by_itself_is_left_out():
    said = suggest("distill", run="quickstart", runs_dir="runs", data="phantom", size=64, teacher=None, control=True)
    assert said == "next:  uv run distill --run quickstart --control"


def test_all_else_is_said_and_survives_a_shell():
    said = suggest("finetune", "a b", run="x", runs_dir="my runs", data=["one's", "phantom:60"], size=65)
    words = shlex.split(said)
    assert words[:5] == ["next:", "uv", "run", "finetune", "a b"]
    assert words[5:] == ["--run", "x", "--runs_dir", "my runs", "--data", "one's", "phantom:60", "--size", "65"]


@pytest.mark.parametrize(
    ("data", "size"),
    [("phantom", 64), ("phantom-multiclass:40", 64), ("a/folder", 224), ("a/folder#A,B", 224), (["phantom", "x"], 64)],
)
def test_the_size_of_data_that_is_not_prepared(data, size):
    assert default_size(data) == size


@pytest.mark.parametrize(
    ("prepared", "noted", "size"),
    # Cohorts without a note of their size, as they were written before, are of a multiple of 32.
    [
        (16, False, 32),
        (32, False, 32),
        (40, False, 32),
        (96, False, 96),
        (16, True, 32),
        (40, True, 40),
        (224, True, 224),
    ],
)
def test_the_size_of_a_prepared_cohort_is_the_one_it_was_prepared_for(prepared, noted, size, tmp_path):
    save(open_cohort("phantom:20", pixel_size=pixel_size_for(prepared), show=False), tmp_path / "c")
    note_size(tmp_path / "c", prepared if noted else None)
    assert default_size(tmp_path / "c") == size
    assert default_size([tmp_path / "c", "phantom"]) == min(size, 64)
    assert suggest("finetune", data=str(tmp_path / "c"), size=size).endswith("c")


def test_without_uv_a_command_is_suggested_as_it_is(monkeypatch):
    monkeypatch.delenv("UV")
    assert suggest("finetune", data="my cohort", run="a") == "next:  finetune --data 'my cohort' --run a"
