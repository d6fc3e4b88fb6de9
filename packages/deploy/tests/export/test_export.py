import json

import numpy as np
import pytest

from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_deploy import runtimes
from cxr_deploy.cli import export_model as main
from cxr_deploy.config import ExportConfig
from cxr_deploy.export import onnx_file
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.export import check, export
from cxr_deploy.web.runtime_files import FILES


def test_a_model_becomes_a_checked_file(model_file, capsys):
    path = model_file()
    assert main([str(path.parent), "--int8", "false"]) == 0
    out = path.parent / "export"
    about = json.loads((out / "export.json").read_text())
    assert about["source"]["sha256"] == sha256(path)
    assert about["check"]["batches"] == [1, 6]  # the validation part of 60 images
    assert about["check"]["largest_difference"] <= 1e-4
    assert about["check"]["differences"].keys() == {"probabilities", "logits", "maps"}
    assert about["files"]["model.onnx"]["sha256"] == sha256(out / "model.onnx")
    assert about["quantisation"] is None
    said = capsys.readouterr().out
    assert f"new images:  uv run predict {out / 'model.onnx'} IMAGES" in said
    _, header, _ = onnx_file.load(out / "model.onnx")
    assert header.labels == ("effusion", "cardiomegaly", "nodule")


@pytest.mark.parametrize(("output", "factor"), [("logits", 1.1), ("maps", 1.01)])
def test_logits_and_maps_that_differ_are_seen_too(lively, radiographs, monkeypatch, output, factor):
    """Of saturated probabilities nothing can be read."""
    network, header = lively("test_resnet")
    model, right = convert(Answering(network, header), header), runtimes.in_onnxruntime

    def wrong(model, **options):
        run = right(model, **options)
        return lambda pixels: {**run(pixels), output: run(pixels)[output] * np.float32(factor)}

    assert check(model.SerializeToString(), network, header, radiographs(3, 64)).keys() == set(runtimes.OUTPUTS)
    monkeypatch.setattr(runtimes, "in_onnxruntime", wrong)
    with pytest.raises(BadInput, match=f"{output} within 0.001"):
        check(model.SerializeToString(), network, header, radiographs(3, 64))


@pytest.mark.slow
def test_an_export_that_ends_early_leaves_the_earlier_one(model_file, monkeypatch, tmp_path):
    path = model_file()
    assert main([str(path), "--int8", "false"]) == 0
    out = path.parent / "export"
    (out / "model.int8.onnx").write_text("of the same export")
    (out / "mine.txt").write_text("x")
    before = {one.name: sha256(one) for one in out.iterdir()}

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cxr_deploy.export.quantise.search", killed)
    model_file(labels=("effusion", "nodule"))  # other weights of the same name
    with pytest.raises(KeyboardInterrupt):
        export(ExportConfig(models=[str(path)]))
    assert {one.name: sha256(one) for one in out.iterdir()} == before
    assert not [one for one in out.parent.iterdir() if one.name.startswith(".")]
    assert main([str(path), "--int8", "false"]) == 0
    assert {one.name for one in out.iterdir()} == {"model.onnx", "export.json", "mine.txt"}
    assert json.loads((out / "export.json").read_text())["source"]["sha256"] == sha256(path)


def test_what_8_bits_need_is_looked_for_before_anything_is_made(model_file, tmp_path, monkeypatch, capsys, shared_data):
    path = model_file()
    monkeypatch.setattr("cxr_deploy.export.export.convert", lambda *args: pytest.fail("converted first"))
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((shared_data / "covid_cxr").rglob("*.jpg"))[:12]:
        (images / file.name).write_bytes(file.read_bytes())
    assert main([str(path), "--data", str(images)]) == 2
    assert "a cohort with labels for 8 bits, found one without" in capsys.readouterr().err


def test_a_file_that_answers_otherwise_is_not_kept(model_file, monkeypatch, capsys):
    right = runtimes.in_onnxruntime

    def wrong(model, **options):
        run = right(model, **options)
        return lambda pixels: {**run(pixels), "probabilities": run(pixels)["probabilities"] + np.float32(2e-4)}

    monkeypatch.setattr(runtimes, "in_onnxruntime", wrong)
    path = model_file()
    assert main([str(path), "--int8", "false"]) == 2
    assert "a difference of 0.0002" in capsys.readouterr().err
    assert not (path.parent / "export").exists()


def test_a_graph_that_is_tied_to_one_batch_is_refused(lively):
    network, header = lively("test_resnet")
    model = convert(Answering(network, header), header)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    images = np.zeros((3, 1, 64, 64), np.uint8)
    with pytest.raises(BadInput, match="batches of any size"):
        check(model.SerializeToString(), network, header, images)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.safetensors"], "nothing there"),
        (["--run", "nobody"], "no such folder"),
        (["--max_drop", "0.7"], "AUROC"),
    ],
)
def test_bad_input(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--web", "--out"])
@pytest.mark.parametrize("named", [["--run", "quickstart"], ["runs/quickstart"], ["a", "b"]])
def test_several_models_never_share_a_folder(model_file, option, named, tmp_path, monkeypatch, capsys):
    """The last one would be served as if it were the one that was meant."""
    monkeypatch.chdir(tmp_path)
    for name in ("student", "student-control"):
        model_file(name)
    folders = {"a": "runs/quickstart/student", "b": "runs/quickstart/student-control"}
    monkeypatch.setattr("cxr_deploy.export.export.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main([*(folders.get(name) or name for name in named), option, "there"]) == 2
    error = capsys.readouterr().err
    assert f"expected one model where {option} is given, found 2: student, student-control" in error
    assert not (tmp_path / "there").exists()


def test_a_cohort_of_other_labels_is_refused(model_file, capsys):
    assert main([str(model_file()), "--data", "phantom-multiclass:60", "--int8", "false"]) == 2
    assert "effusion" in capsys.readouterr().err


def test_a_page_is_written_beside_the_export(model_file, tmp_path, capsys):
    path, runtime, page = model_file(size=32), tmp_path / "ort", tmp_path / "page"
    runtime.mkdir()
    for name in FILES:
        (runtime / name).write_text("x")
    options = ["--int8", "false", "--web", str(page), "--ort_web", str(runtime)]
    assert main([str(path), *options]) == 0
    assert {"index.html", "model.onnx", "model.json", "ort"} <= {one.name for one in page.iterdir()}
    assert f"wrote {page}" in capsys.readouterr().out
    assert json.loads((page / "model.json").read_text())["name"] == "small"
    other = model_file("other", size=32, labels=("nodule",))
    assert main([str(other), *options]) == 0
    assert f"{page}: the page of small is replaced" in capsys.readouterr().out
    (page / "mine.txt").write_text("x")
    assert main([str(path), *options]) == 2
    assert "mine.txt" in capsys.readouterr().err
