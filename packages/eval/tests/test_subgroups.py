import numpy as np
import polars as pl
import pytest
import sklearn.metrics as peer

from cxr_data.errors import BadInput
from cxr_eval import results, subgroups
from cxr_eval.predictions import Answers


def test_usual_columns_are_taken_where_they_tell_groups_apart():
    table = pl.DataFrame(
        {"image": ["a", "b", "c"], "sex": ["F", "M", None], "projection": ["PA"] * 3, "age": [5.0, 70, None]}
    )
    actual = {grouping.column: grouping for grouping in subgroups.groupings(table, [])}
    assert list(actual) == ["sex", "age"]
    assert actual["sex"].names == ("F", "M")
    assert actual["sex"].number.tolist() == [0, 1, -1]
    assert actual["age"].names == ("0-17", "60-79")
    assert actual["age"].number.tolist() == [0, 1, -1]
    assert [grouping.column for grouping in subgroups.groupings(table, ["projection"])] == ["projection"]


def test_ages_are_cut_at_whole_years_and_other_numbers_at_quartiles():
    table = pl.DataFrame({"age": [0.5, 17.9, 18.0, 39.9, 80.0, 103.0], "dose": [1.0, 2, 3, 4, 5, 6]})
    (age,) = subgroups.groupings(table, ["age"])
    assert [age.names[i] for i in age.number] == ["0-17", "0-17", "18-39", "18-39", "80+", "80+"]
    (dose,) = subgroups.groupings(table, ["dose"])
    assert dose.names == ("1", "2", "3", "4", "5", "6")  # few values stand as they are
    many = pl.DataFrame({"dose": np.arange(100.0)})
    (dose,) = subgroups.groupings(many, ["dose"])
    assert len(dose.names) == 4
    assert np.bincount(dose.number).tolist() == [25, 25, 25, 25]


def test_numbers_are_groups_by_value_and_nan_is_none():
    dosed = {"dose": [100.0, 80.0, np.nan, None, 80.0], "mas": [2.5, 10.0, 2.5, 2.5, 10.0]}
    table = pl.DataFrame({**dosed, "kv": [9, 10, 9, 9, 9]})
    dose, mas, kv = subgroups.groupings(table, ["dose", "mas", "kv"])
    assert (dose.names, dose.number.tolist()) == (("80", "100"), [1, 0, -1, -1, 0])
    assert (mas.names, mas.number.tolist()) == (("2.5", "10"), [0, 1, 0, 0, 1])
    assert kv.names == ("9", "10")


def test_columns_that_cannot_be_groups_are_refused():
    table = pl.DataFrame({"sex": ["F", "M"] * 20, "name": [f"n{i}" for i in range(40)], "site": [None] * 40})
    with pytest.raises(BadInput, match="did you mean sex"):
        subgroups.groupings(table, ["sec"])
    with pytest.raises(BadInput, match="40 in name"):
        subgroups.groupings(table, ["name"])
    with pytest.raises(BadInput, match="none for these images"):
        subgroups.groupings(table, ["site"])


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    n = 1200
    patient = np.arange(n) // 2
    sex = np.where(patient % 3 == 0, "F", "M").astype(object)
    sex[-24:] = "X"  # 12 patients
    targets = (rng.random((n, 3)) < [0.4, 0.3, 0.05]).astype(np.float32)
    targets[sex == "F", 2] = 0  # too rare among women to say
    targets[(sex == "F").nonzero()[0][:2], 2] = 1
    skill = np.where(sex == "F", 0.3, 2.0)[:, None]
    z = targets * skill + rng.normal(size=(n, 3))
    answers = {"m": Answers(1 / (1 + np.exp(-z)), z > 0.5)}
    labels = ["a", "b", "c"]
    number, weights = results.draws_of(patient, 200, 0)
    groupings = subgroups.groupings(pl.DataFrame({"sex": pl.Series(sex.tolist())}), ["sex"])
    document = subgroups.measure(groupings, labels, [0, 1, 2], targets, answers, number, weights)
    return document, targets, answers["m"], sex


def test_figures_of_a_group_are_those_of_its_images(measured):
    actual, targets, answer, sex = measured
    women = sex == "F"
    entry = actual["models"]["m"]["sex"]["F"]["labels"]["a"]["auroc"]
    expected = peer.roc_auc_score(targets[women, 0], answer.probabilities[women, 0])
    assert entry["value"] == pytest.approx(expected)
    assert entry["low"] < expected < entry["high"]
    overall = actual["models"]["m"]["sex"]["M"]["overall"]["recall"]["value"]
    men = sex == "M"
    recalls = [peer.recall_score(targets[men, i], answer.decisions[men, i]) for i in range(2)]
    assert overall == pytest.approx(np.mean(recalls))


def test_what_is_too_small_is_named_with_its_reason(measured):
    actual = measured[0]
    groups = {group["name"]: group for group in actual["columns"]["sex"]["groups"]}
    assert groups["X"]["reason"] == "12 patients: fewer than 20"
    assert groups["F"]["reason"] is None
    assert actual["models"]["m"]["sex"]["X"]["overall"]["auroc"]["reason"] == groups["X"]["reason"]
    rare = actual["models"]["m"]["sex"]["F"]["labels"]["c"]["auroc"]
    assert rare["value"] is None
    assert "fewer than 5 patients" in rare["reason"]
    assert actual["columns"]["sex"]["labels"] == ["a", "b"]  # men have c, but averages must be over the same labels
    assert actual["models"]["m"]["sex"]["M"]["labels"]["c"]["auroc"]["value"] is not None


def test_gaps_are_listed_the_largest_first_with_intervals(measured):
    gaps = measured[0]["gaps"]
    assert [gap["value"] for gap in gaps] == sorted((gap["value"] for gap in gaps), reverse=True)
    gap = next(gap for gap in gaps if gap["metric"] == "auroc" and gap["label"] is None)
    assert (gap["best"], gap["worst"]) == ("M", "F")
    assert 0 < gap["low"] < gap["value"] < gap["high"]
    assert not any(gap["label"] == "c" for gap in gaps)


def test_a_group_without_an_error_has_an_exact_interval():
    """One label: the overall figures of a group are its own, with the patients of the group as trials."""
    targets = (np.arange(80)[:, None] % 2).astype(np.float32)
    answers = {"m": Answers(targets.astype(np.float64) * 0.5 + 0.2, targets == 1)}
    sex = pl.DataFrame({"sex": ["F"] * 40 + ["M"] * 40})
    number, draws = results.draws_of(np.arange(80), 50, 0)
    groupings = subgroups.groupings(sex, ["sex"])
    document = subgroups.measure(groupings, ["a"], [0], targets, answers, number, draws)
    women = document["models"]["m"]["sex"]["F"]
    assert women["overall"] == women["labels"]["a"]
    assert women["overall"]["recall"]["exact"] == 20
    assert women["overall"]["recall"]["low"] == pytest.approx(0.025 ** (1 / 20))
    assert women["overall"]["auroc"]["low"] is None
    assert all(gap["low"] is None for gap in document["gaps"])


def test_without_resamples_there_are_values_alone(measured):
    _, targets, answer, sex = measured
    groupings = subgroups.groupings(pl.DataFrame({"sex": pl.Series(sex.tolist())}), ["sex"])
    patients = np.arange(1200) // 2
    document = subgroups.measure(groupings, ["a", "b", "c"], [0, 1, 2], targets, {"m": answer}, patients, None)
    assert document["models"]["m"]["sex"]["F"]["overall"]["auroc"]["interval_reason"] == "no resamples were asked for"
    assert document["gaps"][0]["low"] is None


def test_the_average_of_one_label_is_not_listed_beside_that_label(measured):
    _, targets, answer, sex = measured
    rare = targets.copy()
    rare[sex == "F", 1] = 0  # leaves one label with patients enough in every group
    number, draws = results.draws_of(np.arange(1200) // 2, 20, 0)
    groupings = subgroups.groupings(pl.DataFrame({"sex": pl.Series(sex.tolist())}), ["sex"])
    document = subgroups.measure(groupings, ["a", "b", "c"], [0, 1, 2], rare, {"m": answer}, number, draws)
    assert document["columns"]["sex"]["labels"] == ["a"]
    assert [(gap["label"], gap["metric"]) for gap in document["gaps"]].count(("a", "auroc")) == 1
    assert all(gap["label"] == "a" for gap in document["gaps"])
