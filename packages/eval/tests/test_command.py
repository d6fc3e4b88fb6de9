import csv
import json
import math
import shlex
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import polars as pl
import pytest

from cxr_common.checkpoint import load, save, trained_on
from cxr_data import open_cohort, pixel_size_for
from cxr_data.command_line.command import parse
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_eval import command as stage
from cxr_eval.cli import main
from cxr_eval.config import EvaluateConfig
from cxr_eval.document import SCHEMA_FILE, read_report

DATA = "phantom:60"


@pytest.fixture
def labels():
    return open_cohort(DATA, pixel_size=64).labels


def run(tmp_path, *argv):
    return main(["--data", DATA, "--runs_dir", str(tmp_path / "runs"), "--resamples", "20", *argv])


@pytest.mark.slow
def test_whole_stage_on_the_phantom(tmp_path, make_model, labels, capsys):
    cohort = open_cohort(DATA, pixel_size=64)
    make_model("teacher", labels, "multilabel", seed=1, cohort=cohort.describe(), thresholds=(0.4,) * len(labels))
    make_model("baseline", tuple(reversed(labels)), "multilabel", seed=2, calibration={"temperature": 2.0})
    assert run(tmp_path, "--threads", "1") == 0

    folder = tmp_path / "runs" / "quickstart" / "report"
    assert {path.name for path in folder.iterdir()} == stage.OURS
    assert sorted(path.name for path in (folder / "model_cards").iterdir()) == ["baseline", "teacher"]
    card = (folder / "model_cards" / "teacher" / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\nlibrary_name")
    plots = {path.name for path in (folder / "plots").iterdir()}
    assert {f"{kind}-{labels[0]}.svg" for kind in ("roc", "precision-recall", "calibration-before")} <= plots
    assert {"subgroups-sex.svg", "subgroups-age.svg"} <= plots
    said = capsys.readouterr().out
    assert f"wrote {folder / 'index.html'}" in said.splitlines()
    assert said.splitlines()[-1].startswith("next:  uv run export-model ")
    assert "teacher" in said
    assert "│" not in said  # plain when piped

    document = json.loads((folder / "metrics.json").read_text())
    assert list(document["models"]) == ["teacher", "baseline"]
    assert document["labels"] == list(labels)
    assert any("matched by name" in note for note in document["notes"])
    assert any("no threshold was fitted" in note for note in document["notes"])
    assert document["models"]["teacher"]["speed"]["threads"] == 1
    speed = document["models"]["teacher"]["speed"]
    assert 0 < speed["latency_ms_p50"] <= speed["latency_ms_p99"]
    assert speed["peak_bytes"] > 50e6  # Python and PyTorch alone take more
    assert document["models"]["baseline"]["speed"] == speed  # the same network: measured once
    assert document["differences"]["baseline"]["reference"] == "teacher"
    assert document["noninferiority"]["baseline"]["against"] == "teacher"
    jsonschema.validate(document, json.loads(SCHEMA_FILE.read_text("utf-8")))
    report = read_report(folder)
    assert report.models["teacher"].overall["auroc"].value == document["models"]["teacher"]["overall"]["auroc"]["value"]
    assert [document["models"][name]["cohort"] for name in ("teacher", "baseline")] == ["internal", "unknown"]
    assert document["models"]["baseline"]["calibration"]["temperature"] == 2.0
    assert list(document["subgroups"]["columns"]) == ["sex", "age", "projection"]
    assert all(group["reason"] for group in document["subgroups"]["columns"]["sex"]["groups"])  # 6 patients in all
    assert document["provenance"]["command"].startswith(f"uv run evaluate --data {DATA} --runs_dir ")

    # The figures are those of the stored answers, and the answers those of the models.
    predictions = pl.read_parquet(folder / "predictions.parquet")
    rows = cohort.rows("test")
    assert predictions["image"].to_list() == cohort.table["image"].gather(rows).to_list()
    name = labels[0]
    called, truth = predictions[f"decision:teacher:{name}"].to_numpy(), cohort.targets[rows, 0]
    assert np.array_equal(called, predictions[f"probability:teacher:{name}"].to_numpy() >= np.float32(0.4))
    entry = document["models"]["teacher"]["labels"][name]
    assert [entry["tp"], entry["fp"]] == [np.sum(called & (truth == 1)), np.sum(called & (truth == 0))]
    with open(folder / "metrics.csv", newline="") as file:
        lines = [x for x in csv.DictReader(file) if x["scope"] == "label" and x["label"] == name]
    recall = next(x for x in lines if x["model"] == "teacher" and x["metric"] == "recall")
    assert float(recall["value"]) == pytest.approx(entry["recall"]["value"])


def test_explanations_are_a_section_of_the_report_and_scores_in_the_document(tmp_path, make_model, labels):
    for seed, name in enumerate(("teacher", "student")):
        make_model(name, labels, "multilabel", seed=seed, architecture="test_resnet", size=64)
    assert run(tmp_path, "--speed", "false", "--explain", "gradcam") == 0
    folder = tmp_path / "runs" / "quickstart" / "report"
    document = json.loads((folder / "metrics.json").read_text())["explanations"]
    assert document["method"] == "Grad-CAM"
    named = {(score["model"], score["name"]) for score in document["scores"]}
    assert {("teacher", "Pointing game"), ("student", "Pointing game of the image centre")} <= named
    page = (folder / "index.html").read_text()
    whole = json.loads((folder / "metrics.json").read_text())
    jsonschema.validate(whole, json.loads(SCHEMA_FILE.read_text("utf-8")))
    described = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text("utf-8")
    of_model = whole["models"]["teacher"]
    for key in [*whole, *whole["intervals"], *of_model, *of_model["file"], *document]:
        assert f"`{key}`" in described, key
    assert 'id="explanations"' in page
    assert page.count("data:image/png;base64,") >= len(labels)
    assert "--panels: 3" in page  # the radiograph and two maps side by side


def test_reversed_labels_and_a_second_run_give_the_same_figures(tmp_path, make_model, labels):
    """A model whose labels come in another order is the same model; a report is replaced by the next one."""
    path = make_model("teacher", labels, "multilabel")
    assert run(tmp_path, str(path), "--speed", "false") == 0
    report = tmp_path / "runs" / "quickstart" / "report"
    first = json.loads((report / "metrics.json").read_text())
    assert run(tmp_path, str(path.parent), "--speed", "false") == 0
    second = json.loads((report / "metrics.json").read_text())
    assert first["models"]["teacher"]["overall"] == second["models"]["teacher"]["overall"]
    assert second["models"]["teacher"]["speed"] is None
    assert not [entry.name for entry in report.parent.iterdir() if entry.name.startswith(".")]


def test_models_of_two_input_sizes_see_the_same_images(tmp_path, make_model, labels):
    make_model("teacher", labels, "multilabel", size=64)
    small = open_cohort(DATA, pixel_size=64).describe()
    make_model("small", labels, "multilabel", size=32, cohort=small)
    assert run(tmp_path, "--speed", "false", "--split", "val") == 0
    document = json.loads((tmp_path / "runs" / "quickstart" / "report" / "metrics.json").read_text())
    assert [m["file"]["input_size"] for m in document["models"].values()] == [64, 32]
    assert any("val images, not test images" in note for note in document["notes"])
    # Stored at another size the images have another fingerprint; that alone makes no other data.
    assert not any("small was trained on another" in note for note in document["notes"])


def test_another_hospital_is_called_external_and_can_be_taken_whole(tmp_path, make_model, labels, capsys):
    elsewhere = {"name": "another hospital", "fingerprint": "f" * 64}
    other = {"name": "phantom", "fingerprint": "e" * 64}
    teacher = make_model("teacher", (*labels, "Scoliosis"), "multilabel", cohort=elsewhere)
    make_model("student", labels[:2], "multilabel", cohort=other)
    # Some of these images were training images elsewhere, under other names.
    cohort = open_cohort(DATA, pixel_size=pixel_size_for(32), show=False)
    save(teacher, *load(teacher), training_images=trained_on(cohort, ()))
    asked = ["--split", "all", "--subgroups", "projection", "--speed", "false", "--margin", "0.4"]
    assert run(tmp_path, *asked) == 0
    report = tmp_path / "runs" / "quickstart" / "report"
    document = json.loads((report / "metrics.json").read_text())
    assert document["images"] == 60
    made_with = len(cohort.rows("train")) + len(cohort.rows("val"))
    met = f"Of 60 evaluated images {made_with} are identical to training or validation images of teacher"
    assert document["notes"][0].startswith(met)
    assert f"evaluate: warning: {met}" in capsys.readouterr().out
    assert document["labels"] == list(labels[:2])
    assert [model["cohort"] for model in document["models"].values()] == ["external", "other state"]
    assert any(
        note.startswith("External cohort: teacher was trained on another hospital") for note in document["notes"]
    )
    assert any("student was trained on another state of phantom" in note for note in document["notes"])
    assert any("Scoliosis" in note for note in document["notes"])
    assert list(document["subgroups"]["columns"]) == ["projection"]
    assert next(iter(document["noninferiority"].values()))["margin"] == 0.4
    assert "external cohort</span>" in (report / "index.html").read_text()
    assert "--subgroups projection" in document["provenance"]["command"]


def test_a_student_is_held_against_the_teacher_it_names(tmp_path, make_model, labels):
    first = make_model("a-reference", labels, "multilabel", seed=1)
    teacher = make_model("b-teacher", labels, "multilabel", seed=2)
    parents = ({"role": "teacher", "path": "elsewhere", "sha256": sha256(teacher)},)
    student = make_model("c-student", labels, "multilabel", seed=3, parents=parents)
    assert run(tmp_path, str(first), str(teacher), str(student), "--speed", "false") == 0
    document = json.loads((tmp_path / "runs" / "quickstart" / "report" / "metrics.json").read_text())
    against = {name: entry["against"] for name, entry in document["noninferiority"].items()}
    assert against == {"b-teacher": "a-reference", "c-student": "b-teacher"}


def test_a_split_with_patients_on_both_sides_is_told_before_the_figures(tmp_path, make_model):
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    rows = ["file,patient,split,label:EFFUSION"]
    for number in range(60):
        cv2.imwrite(str(images / f"{number}.png"), random.integers(0, 256, (32, 32), np.uint8))
        rows.append(f"{number}.png,p{number // 2},{'train' if number % 2 else 'test'},{number // 4 % 2}")
    (images / "labels.csv").write_text("\n".join(rows))
    make_model("model", ("EFFUSION",), "multilabel")
    assert run(tmp_path, "--data", str(images), "--speed", "false") == 0
    report = tmp_path / "runs" / "quickstart" / "report"
    document, page = json.loads((report / "metrics.json").read_text()), (report / "index.html").read_text()
    shared = document["cohort"]["shared_patients"]["train and test"]
    said = f"{shared} patients (or patients with an identical image) lie in both train and test"
    assert document["notes"][0].startswith(said)
    assert page.index(said) < page.index('id="summary"')
    assert "Some patients lie in two splits" in page


def test_patients_who_share_an_identical_image_are_drawn_as_one(tmp_path, make_model, capsys):
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    rows = ["file,patient,split,label:EFFUSION"]
    pixels = random.integers(0, 256, (32, 32), np.uint8)
    for number in range(40):
        if number > 1:  # the second patient's image is the first's
            pixels = random.integers(0, 256, (32, 32), np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), pixels)
        rows.append(f"{number}.png,p{number},{'train' if number >= 30 else 'test'},{number // 2 % 2}")
    (images / "labels.csv").write_text("\n".join(rows))
    make_model("model", ("EFFUSION",), "multilabel")
    assert run(tmp_path, "--data", str(images), "--speed", "false") == 0
    said = capsys.readouterr().out
    assert "intervals from 29 patients (30, those who share an identical image as one)" in said


def test_a_column_that_is_not_there_is_bad_input_before_anything_is_computed(tmp_path, make_model, labels, capsys):
    make_model("teacher", labels, "multilabel")
    assert run(tmp_path, "--subgroups", "sxe") == 2
    said = capsys.readouterr()
    assert "did you mean sex" in said.err
    assert "evaluate: teacher" not in said.out


def test_the_command_can_be_typed_again():
    config = EvaluateConfig(models=["a b", "c"], subgroups=["sex", "age"], speed=False, margin=0.05)
    words = shlex.split(stage.command(config))
    assert words[:3] == ["uv", "run", "evaluate"]
    parsed = parse(EvaluateConfig, prog="evaluate", argv=words[3:], positional="models")
    assert parsed == config


def test_the_cohort_comes_from_the_first_model(tmp_path, make_model, labels):
    make_model("teacher", labels, "multilabel", config={"data": DATA})
    arguments = ["--runs_dir", str(tmp_path / "runs"), "--resamples", "0", "--speed", "false"]
    assert main(arguments) == 0
    document = json.loads((tmp_path / "runs" / "quickstart" / "report" / "metrics.json").read_text())
    assert document["cohort"]["name"] == "phantom"
    assert document["models"]["teacher"]["overall"]["auroc"]["interval_reason"] == "no resamples were asked for"


def test_classes_are_counted_in_a_confusion_matrix(tmp_path, make_model):
    cohort = open_cohort("phantom-multiclass:60", pixel_size=64)
    path = make_model("teacher", cohort.labels, "multiclass")
    out = str(tmp_path / "runs")
    assert (
        main([str(path), "--data", "phantom-multiclass:60", "--runs_dir", out, "--resamples", "10", "--speed", "false"])
        == 0
    )
    document = json.loads((tmp_path / "runs" / "quickstart" / "report" / "metrics.json").read_text())
    matrix = np.array(document["models"]["teacher"]["confusion_matrix"])
    assert matrix.sum() == len(cohort.rows("test"))
    accuracy = document["models"]["teacher"]["overall"]["accuracy"]["value"]
    assert accuracy == pytest.approx(np.trace(matrix) / matrix.sum())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "backbone", "task": None, "labels": ()}, "finetune"),
        ({"task": "multiclass", "labels": ("NORMAL", "PNEUMONIA")}, "NORMAL, PNEUMONIA"),
        ({"task": "multilabel", "labels": ("Scoliosis", "Situs inversus")}, "Scoliosis, Situs inversus"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_both_sides_named(tmp_path, make_model, labels, capsys, model, said):
    settings = dict(model)
    make_model("teacher", settings.pop("labels"), settings.pop("task"), **settings)
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert model.get("kind") == "backbone" or labels[0] in error
    assert "Traceback" not in error
    assert not (tmp_path / "runs" / "quickstart" / "report").exists()


def test_no_model_says_what_to_do(tmp_path, capsys):
    assert run(tmp_path) == 2
    assert "run finetune or distill first" in capsys.readouterr().err


def test_diverged_weights_are_refused(tmp_path, make_model, labels, capsys):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = make_model("teacher", labels, "multilabel")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    save_file({key: value * math.nan for key, value in state.items()}, path, metadata)
    assert run(tmp_path) == 2
    assert "finite numbers" in capsys.readouterr().err


def test_a_folder_with_other_files_is_left_alone(tmp_path, make_model, labels, capsys):
    make_model("teacher", labels, "multilabel")
    assert run(tmp_path, "--name", "teacher") == 2
    assert "model.safetensors" in capsys.readouterr().err
    assert (tmp_path / "runs" / "quickstart" / "teacher" / "model.safetensors").is_file()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path, make_model, labels, capsys, monkeypatch
):
    make_model("teacher", labels, "multilabel")

    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr(stage, "_open", lambda *args: pytest.fail("the cohort was opened first"))
    assert run(tmp_path) == 2
    assert "a folder this user may write to, found Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting",
    [
        {"split": "tset"},
        {"precision": "fp16"},
        {"batch_size": 0},
        {"resamples": -1},
        {"name": "../x"},
        {"run": ""},
        {"margin": 0},
        {"explain": "gardcam"},
    ],
)
def test_settings_are_checked(setting):
    with pytest.raises(BadInput):
        EvaluateConfig(**setting)
