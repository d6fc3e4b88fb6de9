import pytest

from cxr_data.errors import BadInput
from cxr_data.models.header import Header, Input
from cxr_data.models.model_files import cohort_of, find, names


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_the_teacher_of_a_run_comes_first_and_backbones_are_not_models(tmp_path):
    touch(tmp_path, "a/resnet18/model.safetensors", "a/teacher/model.safetensors", "a/ssl/backbone.safetensors")
    touch(tmp_path, "a/teacher.aside-1/model.safetensors")  # set aside by --restart
    touch(tmp_path, "a/eeea/model.safetensors", "b/other/model.safetensors")
    assert [path.parent.name for path in find([], tmp_path, "a")] == ["teacher", "eeea", "resnet18"]


def test_given_files_keep_their_order_and_folders_will_do(tmp_path):
    touch(tmp_path, "x/model.safetensors", "y/model.safetensors")
    files = find([str(tmp_path / "y"), str(tmp_path / "x" / "model.safetensors"), str(tmp_path / "y")], "runs", "q")
    assert [path.parent.name for path in files] == ["y", "x"]
    assert find([str(tmp_path / "x" / "model.safetensors"), str(tmp_path)], "runs", "q") == [files[1], files[0]]
    with pytest.raises(BadInput, match="nothing there"):
        find([str(tmp_path / "z")], "runs", "q")


def test_names_are_folders_with_the_run_where_they_agree(tmp_path):
    files = [tmp_path / p / "model.safetensors" for p in ("a/teacher", "b/teacher", "b/resnet18")]
    assert names(files) == ["a/teacher", "b/teacher", "resnet18"]
    same = [tmp_path / "a" / "teacher" / "one.safetensors", tmp_path / "a" / "teacher" / "two.safetensors"]
    assert names(same) == [str(path) for path in same]


def test_the_data_of_a_model_is_named_by_the_run_it_lies_in(tmp_path):
    header = Header("model", "resnet18", Input(32, 0.5, 0.2), config={"data": "mine"}, cohort={"source": "source"})
    where = tmp_path / "model.safetensors"
    assert cohort_of(header, "given", where, wanted="a cohort") == "given"
    assert cohort_of(header, "", where, wanted="a cohort") == "mine"
    (tmp_path / "config.yaml").write_text("data: /far/away/mine\n")
    assert cohort_of(header, "", where, wanted="a cohort") == "/far/away/mine"
    (tmp_path / "config.yaml").write_text("[not, a, config")
    assert cohort_of(header, "", where, wanted="a cohort") == "mine"
    with pytest.raises(BadInput, match="none named"):
        cohort_of(Header("model", "resnet18", Input(32, 0.5, 0.2)), "", where, wanted="a cohort")
