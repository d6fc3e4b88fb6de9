import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from pydicom import dcmread

import cxr_deploy
from cxr_common.checkpoint import load as load_weights
from cxr_common.checkpoint import save
from cxr_data import open_cohort
from cxr_data.models.decisions import probabilities
from cxr_deploy.cli import predict as main
from cxr_deploy.predict import overlay, tables
from cxr_deploy.predict.tables import Row
from cxr_eval.predictions import predict as evaluated


@pytest.fixture
def folder(tmp_path, shared_data):
    """Three radiographs in two folders, one text file called .png, one truncated JPEG."""
    place = tmp_path / "images"
    (place / "deep").mkdir(parents=True)
    files = sorted((shared_data / "covid_cxr").rglob("*.jpg"))[:2]
    shutil.copy(files[0], place / "a.jpg")
    shutil.copy(files[1], place / "deep" / "b.jpg")
    shutil.copy(sorted((shared_data / "formats" / "dicom").iterdir())[0], place / "c.dcm")
    (place / "text.png").write_text("hello")
    (place / "cut.jpg").write_bytes(files[0].read_bytes()[:4000])
    return place


def test_one_image_from_the_shell_takes_about_a_second(models, tmp_path):
    """Of the processor's time, three times that on a slow machine: Python, ONNX Runtime, model, image and answer."""
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (300, 280), np.uint8))
    command = [str(Path(sys.executable).with_name("predict")), str(models["onnx"]), str(tmp_path / "image.png")]

    def took() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "image.png" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(took() < 3 for _ in range(4))


def test_a_folder_becomes_a_table_and_pictures(models, folder, tmp_path, capsys):
    out, maps = tmp_path / "answers.csv", tmp_path / "maps"
    arguments = [str(models["onnx"]), str(folder), "--out", str(out), "--heatmaps", str(maps), "--batch_size", "2"]
    assert main([*arguments, "--heatmaps_of", "all"]) == 0
    rows = {row["file"]: row for row in csv.DictReader(out.read_text().splitlines())}
    names = ["a.jpg", "c.dcm", "cut.jpg", "deep/b.jpg", "text.png"]
    assert list(rows) == [f"{folder}/{name}" for name in names]
    classifier = cxr_deploy.load(models["torch"])
    for name in ("a.jpg", "c.dcm", "deep/b.jpg"):
        row = rows[f"{folder}/{name}"]
        expected = classifier.answers(classifier.read(folder / name)[None])
        assert float(row["probability:PNEUMONIA"]) == pytest.approx(expected.probabilities[0, 1], abs=1e-5)
        assert row["decision:PNEUMONIA"] == str(expected.decisions[0, 1]).lower()
        assert row["error"] == ""
    assert rows[f"{folder}/text.png"]["error"] == "not an image (text file?)"
    assert rows[f"{folder}/text.png"]["probability:NORMAL"] == ""
    assert rows[f"{folder}/cut.jpg"]["error"] == "truncated JPEG: it has no end marker"
    pictures = sorted(maps.iterdir())
    assert len(pictures) == 3
    for path in pictures:
        picture = cv2.imread(str(path))
        assert path.name.endswith(".PNEUMONIA.png")
        assert picture is not None
        assert picture.shape == (384 + 92, 384, 3)
    said = capsys.readouterr().out
    assert "2 files could not be read" in said
    assert "text.png: not an image" in said
    assert f"wrote {out}" in said


def test_no_file_name_costs_an_answer_or_shares_its_picture(models, folder, tmp_path):
    """Names that only look alike once they are file names, one that is no UTF-8, and one as long as may be."""
    odd = tmp_path / "odd"
    (odd / "sub").mkdir(parents=True)
    names = ["a b.jpg", "a_b.jpg", "sub/x.jpg", "sub_x.jpg", "l" * 250 + ".jpg"]
    for name in [*names, b"\xff.jpg"]:
        shutil.copy(folder / "a.jpg", os.path.join(os.fsencode(odd), os.fsencode(name)))
    out, maps = tmp_path / "a.csv", tmp_path / "maps"
    arguments = [str(models["onnx"]), str(odd), "--out", str(out), "--heatmaps", str(maps), "--heatmaps_of", "all"]
    assert main(arguments) == 0
    rows = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    assert {row["file"] for row in rows} == {f"{odd}/{name}" for name in [*names, r"\xff.jpg"]}
    assert all(row["error"] == "" for row in rows)
    assert len(list(maps.iterdir())) == len(rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_other_tables_hold_the_same(models, folder, tmp_path, suffix):
    out = tmp_path / f"answers{suffix}"
    assert main([str(models["torch"].parent), str(folder / "a.jpg"), str(folder / "text.png"), "--out", str(out)]) == 0
    if suffix == ".jsonl":
        first, second = [json.loads(line) for line in out.read_text().splitlines()]
        assert first["probabilities"].keys() == {"NORMAL", "PNEUMONIA"}
        assert sum(first["probabilities"].values()) == pytest.approx(1)
        assert sum(first["decisions"].values()) == 1
        assert (second["probabilities"], second["error"]) == (None, "not an image (text file?)")
    else:
        table = pl.read_parquet(out)
        assert table["probability:NORMAL"].null_count() == 1
        assert table["decision:NORMAL"].dtype == pl.Boolean
        assert table["error"].to_list() == [None, "not an image (text file?)"]


def test_prediction_equals_evaluation_on_the_images_of_a_cohort(models, shared_data, tmp_path):
    """From the files, through the header's mapping, to the figures that evaluation computes from a prepared cohort."""
    source = tmp_path / "few"
    for kind in ("NORMAL", "PNEUMONIA"):
        (source / kind).mkdir(parents=True)
        for file in sorted((shared_data / "kermany_pneumonia" / "train" / kind).iterdir())[:6]:
            shutil.copy(file, source / kind)
    shutil.copy(next((shared_data / "formats" / "kermany_fullsize" / "NORMAL").iterdir()), source / "NORMAL")
    cohort = open_cohort(source, pixel_size=64, show=False)
    network, header = load_weights(models["torch"])
    expected = probabilities(evaluated(network, cohort.pixels, 32), "multiclass", header.calibration)
    out = tmp_path / "answers.parquet"
    assert main([str(models["torch"]), str(source), "--out", str(out)]) == 0
    table = pl.read_parquet(out)
    actual = dict(zip(table["file"], table["probability:PNEUMONIA"], strict=True))
    assert cohort.pixel_mapping == {"aspect": "squash", "window": "voi"}
    for name, p in zip(cohort.table["image"], expected[:, 1], strict=True):
        assert actual[f"{source}/{name}"] == pytest.approx(p, abs=1e-6)


def test_no_patient_leaves_a_dicom_file(models, shared_data, tmp_path, capsys):
    dataset = dcmread(sorted((shared_data / "formats" / "dicom").iterdir())[0])
    dataset.PatientName, dataset.PatientID = "Findlay^Quentin", "ID-77421"
    dataset.save_as(tmp_path / "one.dcm")
    out, maps = tmp_path / "answers.jsonl", tmp_path / "maps"
    arguments = [str(models["torch"]), str(tmp_path / "one.dcm"), "--out", str(out), "--heatmaps", str(maps)]
    assert main([*arguments, "--heatmaps_of", "all"]) == 0
    said = capsys.readouterr()
    everything = out.read_bytes() + said.out.encode() + said.err.encode()
    everything += b"".join(p.read_bytes() + p.name.encode() for p in maps.iterdir())
    for secret in (b"Findlay", b"Quentin", b"77421"):
        assert secret not in everything


def test_warnings_are_in_the_table(models, folder, tmp_path):
    image = cv2.imread(str(folder / "a.jpg"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    cv2.imwrite(str(tmp_path / "inverted.png"), 255 - image)
    out = tmp_path / "answers.jsonl"
    assert main([str(models["torch"]), str(tmp_path / "inverted.png"), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["warnings"] == ["looks inverted: air should be dark"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{torch}"], "1 arguments"),
        ([], "0 arguments"),
        (["{torch}", "nowhere.png"], "nothing there"),
        (["{torch}", "{empty}"], "an empty folder"),
        (["{torch}", "{text}"], "text file"),
        (["{text}", "{text}"], "safetensors"),
        (["{torch}", "{text}", "--out", "answers.xlsx"], "ending in .csv"),
        (["{flat}", "{image}", "--heatmaps", "{empty}/maps"], "baseline_cnn"),
        (["{torch}", "{image}", "--runtime", "tensorrt"], "runtime"),
        (["{torch}", "{image}", "--out", "{table}"], "expected a file to write, found a folder"),
        (["{torch}", "{pipe}"], "found a pipe or a device"),
        (["{diverged}", "{image}"], "finite numbers"),
        (["{torch}", "{many}"], "expected --out for the answers of more than 20 images, found none, and 21 images"),
    ],
)
def test_bad_input_is_one_message(arguments, says, models, folder, tmp_path, capsys):
    for name in ("empty", "table.csv"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    network, header = load_weights(models["torch"])
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    save(tmp_path / "diverged.safetensors", network.network, header)
    places = {**models, "text": folder / "text.png", "image": folder / "a.jpg", "empty": tmp_path / "empty"}
    places |= {"table": tmp_path / "table.csv", "pipe": tmp_path / "pipe.png"}
    places |= {"diverged": tmp_path / "diverged.safetensors", "many": tmp_path / "many"}
    for number in range(21):
        (tmp_path / "many" / f"{number}.jpg").parent.mkdir(exist_ok=True)
        (tmp_path / "many" / f"{number}.jpg").write_bytes((folder / "a.jpg").read_bytes())
    before = set(tmp_path.rglob("*"))
    assert main([argument.format(**places) for argument in arguments]) == 2
    assert says in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


def test_pictures_show_what_is_called():
    assert overlay.shown_labels(np.array([False, True, True]), "multilabel") == [1, 2]
    assert overlay.shown_labels(np.array([False, False, False]), "multilabel") == []
    assert overlay.shown_labels(np.array([False, True, False]), "multilabel", uncalled=True) == [0, 1, 2]
    assert overlay.shown_labels(np.array([True, False]), "multiclass") == []
    assert overlay.shown_labels(np.array([False, True]), "multiclass") == [1]
    assert overlay.shown_labels(np.array([True, False]), "multiclass", uncalled=True) == [1]


def test_a_picture_is_the_radiograph_where_there_is_no_heat():
    gray = np.full((400, 400), 90, np.uint8)
    heat = np.zeros((20, 20), np.float32)
    heat[:, 10:] = 1
    picture = overlay.draw(gray, heat)
    assert (picture[:, :180] == 90).all()
    assert (picture[:, 220:] != 90).any(axis=2).all()


@pytest.mark.parametrize("answer", ["effusion: probability 0.83, called", "x" * 300])
def test_a_legend_stands_below_the_picture(answer):
    picture = np.full((384, 384, 3), 90, np.uint8)
    whole = overlay.with_legend(picture, answer, (7, 7))
    assert whole.shape == (384 + 92, 384, 3)
    assert (whole[:384] == picture).all()
    legend = whole[384:].astype(int)
    assert (legend[:, :4] == 255).all()  # no text is cut off
    assert (legend[:, -4:] == 255).all()
    bar = legend[35, 80:-72]
    assert (np.diff(bar[:, 2]) >= 0).mean() > 0.8  # from gray to bright


def test_a_failed_run_leaves_no_table(tmp_path):
    def write_one(name: str) -> None:
        with tables.writing(tmp_path / name, ["A"]) as write:
            write(Row("x", [0.5], [True]))
            raise RuntimeError

    for name in ("a.csv", "a.jsonl", "a.parquet"):
        with pytest.raises(RuntimeError):
            write_one(name)
    assert not list(tmp_path.iterdir())


def test_other_files_and_links_are_counted(models, folder, tmp_path, capsys):
    (folder / "table.csv").write_text("file,label")
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert main([str(models["onnx"]), str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: 1 other file was left out: 1 x .csv" in said
    assert f"{folder}: links to folders elsewhere were not followed: linked" in said
