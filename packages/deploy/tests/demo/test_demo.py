"""The model that ships: its bytes, its record, its card."""

import hashlib
import json
from importlib.resources import files

import cv2
import pytest

import cxr_deploy
from cxr_data.synthetic.phantom import phantom
from cxr_deploy import demo
from cxr_deploy.cli import predict


@pytest.fixture(scope="module")
def record():
    return json.loads(demo.RECORD.read_text("utf-8"))


def test_the_bytes_are_those_of_the_record_and_few(record):
    content = demo.MODEL.read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert len(content) == record["bytes"] <= 5_000_000


def test_the_recipe_is_the_one_that_made_it(record):
    recipe = files("cxr_recipes").joinpath(f"recipes/{record['recipe']['name']}.yaml").read_bytes()
    assert hashlib.sha256(recipe).hexdigest() == record["recipe"]["sha256"], "run `reproduce demo`, then ship it again"


def test_the_file_answers_completely(record):
    classifier = cxr_deploy.load(demo.MODEL, threads=1)
    answer = classifier(phantom(1, size=128, seed=0)["pixels"][0])
    assert list(answer.probabilities) == record["labels"] == list(classifier.labels)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert set(answer.decisions) == set(answer.heatmaps) == set(record["labels"])
    assert list(classifier.header.thresholds or ()) == record["thresholds"]


def test_the_card_says_whose_data_for_whom_and_how_good(record):
    card = demo.CARD.read_text("utf-8")
    for words in ("CC BY 4.0", "children aged 1 to 5", "research only", "Apache-2.0", "MIT", record["sha256"]):
        assert words in card
    auroc = record["test"]["metrics"]["auroc"]
    assert f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]" in card
    assert 0.9 < auroc["low"] < auroc["value"] < auroc["high"] <= 1


def test_the_file_names_no_path_of_the_machine():
    content = demo.MODEL.read_bytes() + demo.RECORD.read_bytes() + demo.CARD.read_bytes()
    for place in (b"/home/", b"/root/", b"/work/", b"/tmp/", b"/Users/"):
        assert place not in content


def test_predict_demo_answers_without_a_model(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), phantom(1, size=128, seed=0)["pixels"][0])
    assert predict(["--demo", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr()
    assert "PNEUMONIA" in said.out + said.err
    assert "children aged 1 to 5" in said.out + said.err


def test_predict_demo_without_images_says_what_is_missing(capsys):
    assert predict(["--demo"]) == 2
    assert "predict --demo" in capsys.readouterr().err


@pytest.mark.e2e
def test_answers_on_real_radiographs_are_mostly_right(shared_data):
    folder = shared_data / "kermany_pneumonia" / "test"
    classifier = cxr_deploy.load(demo.MODEL, threads=1)
    right = []
    for column, kind in enumerate(("NORMAL", "PNEUMONIA")):
        for file in sorted((folder / kind).iterdir())[:40]:
            right.append(bool(classifier.answers(classifier.read(file)[None]).decisions[0, column]))
    assert sum(right) / len(right) > 0.8
