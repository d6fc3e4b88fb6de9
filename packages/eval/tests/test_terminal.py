from cxr_eval.entries import NO_RESAMPLES
from cxr_eval.terminal import best_of, number, summary


def document(**models):
    keys = ("auroc", "auprc", "f1", "accuracy", "recall", "specificity", "ece")
    return {
        "cohort": {"name": "a [cohort]"},
        "images": 9,
        "split": "test",
        "headline": "SICK",
        "models": {
            name: {
                "overall": {key: {"value": value, "low": None, "high": None} for key in keys},
                "size": {"parameters": 4_700_000},
                "speed": None,
            }
            for name, value in models.items()
        },
    }


def test_best_is_the_largest_but_the_smallest_error():
    content = document(a=0.5, b=0.7, c=None)
    assert best_of(content, "auroc") == {"b"}
    assert best_of(content, "ece") == {"a"}
    assert best_of(document(a=0.5), "auroc") == set()
    assert best_of(document(a=0.5, b=0.5), "f1") == {"a", "b"}


def test_averages_over_some_of_the_labels_are_marked_and_none_is_best():
    content = document(a=0.5, b=0.7)
    content["models"]["b"]["overall"]["f1"]["labels"] = 1
    for name in "ab":
        content["models"][name]["labels"] = {
            label: {key: {"value": None if (name, label) == ("b", "y") else 0.7} for key in ("auroc", "f1")}
            for label in "xy"
        }
    assert best_of(content, "auroc") == {"b"}
    assert best_of(content, "f1") == set()


def test_piped_table_is_plain_and_takes_names_literally(capsys):
    summary(document(**{"[red]x": 0.5, "y": None}))
    heading, columns, first, second = capsys.readouterr().out.splitlines()
    assert heading == "a [cohort], 9 test images: SICK"
    assert columns.split()[:2] == ["model", "AUROC"]
    assert first.split() == ["[red]x", *["0.500"] * 7, "4.70", "M", "-"]
    assert second.split()[1] == number(None) == "-"


def test_the_table_says_how_many_labels_a_mean_is_over(capsys):
    content = document(a=0.5)
    content["models"]["a"]["labels"] = {"x": {"f1": {"value": 0.5}}, "y": {"f1": {"value": None}}}
    content["models"]["a"]["overall"]["f1"]["labels"] = 1
    summary(content)
    _, _, row, note = capsys.readouterr().out.splitlines()
    assert row.split()[3] == "0.500*"
    assert note == "* a: F1 is the mean of 1 of 2 labels"


def test_why_there_is_no_interval_is_said(capsys):
    content = document(a=0.5, b=0.6, c=0.7)
    for name, reason in (("a", "4 patients: fewer than 5"), ("b", "4 patients: fewer than 5"), ("c", NO_RESAMPLES)):
        content["models"][name]["overall"]["auroc"]["interval_reason"] = reason
    summary(content)
    assert capsys.readouterr().out.splitlines()[5:] == ["no interval for the AUROC of a, b: 4 patients: fewer than 5"]
