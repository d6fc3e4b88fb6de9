import pytest

from cxr_recipes.differences import difference
from cxr_recipes.recipe import Recipe
from cxr_recipes.results import (
    _confusion,
    _corruptions,
    _figures,
    _finished,
    _gains,
    _losses,
    _published,
    _report,
    by_seed,
    page,
)


def model(auroc: float | None) -> dict:
    entry = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("auprc", "accuracy", "recall", "specificity", "precision", "f1")
    return {"overall": {"auroc": {"value": auroc, "low": None, "high": None}, **dict.fromkeys(names, entry)}}


def recipe_of(**fields) -> Recipe:
    return Recipe.model_validate({"title": "X", "scales": {"a": {}}, "stages": ["evaluate"], **fields})


def test_seeds_are_one_group() -> None:
    assert by_seed(["teacher", "r18-kd-seed0", "r18-kd-seed1", "r18-seed0"]) == {
        "teacher": ["teacher"],
        "r18-kd": ["r18-kd-seed0", "r18-kd-seed1"],
        "r18": ["r18-seed0"],
    }


def test_figures_and_gains_pair_the_seeds() -> None:
    models = {f"a-seed{i}": model(0.90 + i / 100) for i in range(3)} | {f"b-seed{i}": model(0.88) for i in range(3)}
    groups = by_seed(models)
    assert "| a | 3 | 0.9100 ± 0.0248 |" in _figures(groups, models)
    gains = {"a thing": ["a", "b"], "of a larger scale": ["c", "b"]}
    recipe = recipe_of(gains=gains, published_gains={"a thing": {"auroc": 0.85}})
    validation = {**dict.fromkeys(models, 0.91), "a-seed0": 0.94, "a-seed1": 0.93, "a-seed2": 0.92}
    table = _gains(recipe, groups, models, validation)
    assert "| a thing | 3 | +2.00 [-0.48, +4.48] | +3.00 [+0.52, +5.48] |" in table
    assert "3 of 3 |" in table
    assert "of a larger scale" not in table
    assert table.splitlines()[-1].startswith("| the paper's | | | +0.85 |")


def test_what_the_same_files_lose_on_other_images() -> None:
    def on(*values: float, file: str = "") -> dict:
        return {f"a-seed{i}": model(value) | {"file": {"sha256": file or str(i)}} for i, value in enumerate(values)}

    table = _losses({"children": on(0.95, 0.97), "adults": on(0.70, 0.70)})
    assert "| model | AUROC, children | AUROC, adults | difference, adults |" in table
    assert "| a | 0.9600 ± 0.1271 | 0.7000 ± 0.0000 | -26.00 [-38.71, -13.29] |" in table
    assert _losses({"children": on(0.95), "adults": on(0.70, file="another")}) == ""
    assert _losses({"children": on(0.95)}) == _losses({}) == ""


def test_losses_on_corrupted_copies_are_averaged_over_seeds() -> None:
    def of(*values: float | None) -> dict:
        return {
            f"a-seed{i}": {"corruptions": [{"name": "blurred", "strength": "mild", "difference": {"value": value}}]}
            for i, value in enumerate(values)
        }

    models = of(-0.01, -0.02)
    assert "| blurred, mild | -1.50 [-7.85, +4.85] |" in _corruptions(by_seed(models), models)
    assert "| blurred, mild | -1.00 |" in _corruptions(by_seed(of(-0.01, None)), of(-0.01, None))
    assert _corruptions({"b": ["b"]}, {"b": model(0.9)}) == ""


def test_a_papers_values_stand_beside_ours() -> None:
    models = {f"a-seed{i}": model(0.90 + i / 100) for i in range(3)}
    table = _published({"a": {"auroc": 0.9}, "absent": {"auroc": 0.8}}, by_seed(models), models)
    assert "| a | AUROC | 0.9 | 0.9100 ± 0.0248 | +0.0100 |" in table
    assert "| absent | AUROC | 0.8 | | |" in table


def test_gains_pair_the_seeds_that_both_have() -> None:
    models = {
        "a-seed0": model(0.9),
        "a-seed1": model(0.9),
        "b-seed1": model(0.8),
        "b-seed2": model(0.1),
        "c": model(0.5),
    }
    recipe = recipe_of(gains={"shared": ["a", "b"], "no seed shared": ["a", "c"]})
    table = _gains(recipe, by_seed(models), models, {})
    assert "| shared | 1 | undefined | +10.00 |" in table
    assert "no seed shared" not in table


def test_the_undefined_stays_undefined() -> None:
    models = {"a": model(None), "b": model(0.9)}
    assert difference(models["a"], models["b"], "auroc") is None
    assert "| a | 1 | undefined |" in _figures(by_seed(models), models)
    assert "| a | AUROC | 0.9 | undefined | |" in _published({"a": {"auroc": 0.9}}, by_seed(models), models)


def test_confusion_matrices_are_summed_over_seeds_and_left_out_for_several_findings() -> None:
    models = {f"a-seed{i}": {"confusion_matrix": [[3, i], [1, 10]]} for i in range(3)}
    table = _confusion(by_seed(models), models, ["NORMAL", "PNEUMONIA"])
    assert "| NORMAL as NORMAL | NORMAL as PNEUMONIA | PNEUMONIA as NORMAL | PNEUMONIA as PNEUMONIA |" in table
    assert table.splitlines()[-1] == "| a | 9 | 3 | 3 | 30 |"
    three = {"a": {"confusion_matrix": [[3, 0, 1], [1, 10, 0], [0, 0, 2]]}}
    table = _confusion({"a": ["a"]}, three, ["A", "B", "C"])
    assert table.splitlines()[-5:] == [
        "| a | A | B | C |",
        "|---|---|---|---|",
        "| A | 3 | 0 | 1 |",
        "| B | 1 | 10 | 0 |",
        "| C | 0 | 0 | 2 |",
    ]
    assert _confusion({"b": ["b"]}, {"b": {"confusion_matrix": None}}, ["A", "B"]) == ""


def test_a_recipe_without_reports_ends_with_a_page_without_figures(tmp_path) -> None:
    recipe = recipe_of(title="Only a look", reports={})
    record = {"recipe": "x", "scale": "a", "jobs": 1, "note": "", "machine": "here"}
    text = page(recipe, tmp_path, ["uv run cxr-data show phantom:60"], record)
    assert "# Only a look" in text
    assert "cxr-data show phantom:60" in text
    assert "## Training" not in text


def test_the_page_says_what_its_intervals_do_not_cover() -> None:
    measured = {"confusion_matrix": None, "size": {"parameters": 1.0, "macs": 1.0, "bytes": 1.0}, "speed": None}
    models = {f"a-seed{i}": {**model(0.9), **measured} for i in range(2)}
    split = {"images": 1, "patients": 1, "positive": {}, "unknown": {}}
    cohort = {
        "name": "x",
        "task": "multilabel",
        "labels": [],
        "splits": {"test": split},
        "notes": [],
        "fingerprint": "0" * 64,
    }
    report = {"models": models, "headline": "H", "intervals": {"resamples": 9}, "labels": [], "cohort": cohort}
    text = "\n".join(_report(recipe_of(), "report", "x", report, {}))
    assert "not that of the patients; students that share teachers are not independent of one another." in text


def test_trainings_that_a_restart_set_aside_are_not_listed(tmp_path) -> None:
    for folder in ("teacher", "teacher.aside-1", "kd-0.5", "kd-0.5.aside-2"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "done.json").write_text('{"val_auroc": 0.9}')
    assert list(_finished(tmp_path)) == ["kd-0.5", "teacher"]


def test_averages_over_some_labels_say_so_and_gains_are_over_those_that_both_have() -> None:
    models = {"a": model(0.9), "b": model(0.8)}
    for name, values in {"a": (0.9, None), "b": (0.8, 0.2)}.items():
        models[name]["labels"] = {label: {"f1": {"value": value}} for label, value in zip("xy", values, strict=True)}
    models["a"]["overall"]["f1"] = {"value": 0.9, "low": 0.8, "high": 1.0, "labels": 1}
    assert difference(models["a"], models["b"], "f1") == pytest.approx(10)
    rows = _figures(by_seed(models), models).splitlines()
    assert rows[2].endswith("| 0.9000 [0.8000, 1.0000] (1) |")
    assert "(" not in rows[3]


def test_a_figure_without_an_interval_stands_alone() -> None:
    models = {"a": model(1.0)}
    models["a"]["overall"]["auroc"]["interval_reason"] = "all resamples are equal"
    assert _figures(by_seed(models), models).splitlines()[2].startswith("| a | 1 | 1.0000 | 0.5000 [0.4000, 0.6000] |")
