import pytest
import yaml

from cxr_data.file_names import file_names
from cxr_eval.report.card import cards


def split(text):
    _, matter, body = text.split("---\n", 2)
    return yaml.safe_load(matter), body


def test_a_card_says_what_the_document_says(make_document):
    document, _, _ = make_document("multilabel", ["Mass", "Edema", "Hernia"], {"teacher": 2.5, "student": 2.0})
    made = cards(document)
    assert list(made) == ["teacher", "student"]
    matter, body = split(made["student"])
    assert matter["pipeline_tag"] == "image-classification"
    assert "research-only" in matter["tags"]
    (result,) = matter["model-index"][0]["results"]
    overall = document["models"]["student"]["overall"]
    assert {m["type"]: m["value"] for m in result["metrics"]}["roc_auc"] == round(overall["auroc"]["value"], 4)
    assert result["dataset"] == {"name": "a cohort", "type": "a cohort", "split": "test"}
    assert "Research use only" in body
    for heading in (
        "Intended use",
        "Data",
        "Results",
        "Subgroups",
        "Calibration",
        "Limits",
        "How to use",
        "Provenance",
    ):
        assert f"## {heading}\n" in body
    assert f"{overall['auroc']['value']:.3f} ({overall['auroc']['low']:.3f} to" in body
    assert "no positive image" in body  # Hernia
    assert f"to {overall['auroc']['high']:.3f}, mean of 2 of 3 labels |" in body.replace(")", "")
    assert "non-inferior to teacher" in body or "not shown to be non-inferior to teacher" in body
    assert "Logits are divided by 1.3" in split(made["teacher"])[1]


def test_one_model_without_intervals_nor_timing_still_has_a_card(make_document):
    document, _, _ = make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"guest": 2.0}, speed=False)
    _, body = split(cards(document)["guest"])
    assert "an external cohort" in body
    assert "Beside other models" not in body


@pytest.mark.parametrize(
    ("part", "shared", "said"),
    [
        ("test", {}, "the test images come from the data set the model was trained on, of other patients"),
        ("val", {"train and test": 4}, "the val images come from the data set the model was trained on, of other"),
        ("test", {"train and test": 4}, "4 patients lie in train too"),
        ("train", {}, "these are training images of"),
        ("all", {}, "these are all images of the data set the model was trained on, training images among them"),
    ],
)
def test_a_card_says_of_the_split_what_holds_for_it(make_document, part, shared, said):
    document, _, _ = make_document("multilabel", ["Mass", "Edema"], {"teacher": 2.5})
    document["split"], document["cohort"]["shared_patients"] = part, shared
    (text,) = cards(document).values()
    assert said in text
    if part != "test":
        assert "test images" not in text


def test_a_figure_without_an_interval_says_why(make_document):
    document, _, _ = make_document("multiclass", ["NORMAL", "PNEUMONIA"], {"a": 20.0, "b": 30.0})
    _, body = split(cards(document)["b"])
    assert "| AUROC | 1.000 (no interval: the same whichever patient is left out" in body
    assert f"| Sensitivity | 1.000 ({document['models']['b']['overall']['recall']['low']:.3f} to 1.000) |" in body
    assert "- AUROC +0.000 against a, p 1 after Holm's adjustment" in body


def test_names_cannot_break_out_of_the_card(make_document):
    evil = "<script>|`#_x"
    document, _, _ = make_document("multilabel", [evil, "Edema"], {evil: 1.0})
    (text,) = cards(document).values()
    matter, body = split(text)
    assert matter["model-index"][0]["name"] == evil
    assert "<script>" not in body.split("## How to use")[0]


def test_file_names_are_plain_and_differ():
    actual = file_names(["a/b", "a b", "A_b", "..", "Pleural Effusion"])
    assert actual == {
        "a/b": "a_b",
        "a b": "a_b-2",
        "A_b": "A_b-3",
        "..": "unnamed",
        "Pleural Effusion": "Pleural_Effusion",
    }
