import subprocess
import sys

import cv2
import numpy as np
import pytest

import cxr_deploy
from cxr_common.checkpoint import load as load_weights
from cxr_data.augment import whole
from cxr_data.errors import BadInput
from cxr_data.images.read import fit_image, read_image
from cxr_data.models.decisions import decide, probabilities
from cxr_deploy import runtimes
from cxr_deploy.predict.classifier import heat
from cxr_eval.predictions import predict as evaluated


@pytest.fixture(scope="module")
def image(shared_data):
    file = shared_data / "formats" / "nih_png" / "00000001_000.png"
    return cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)


def test_import_is_light():
    code = "import sys, cxr_deploy; sys.exit(bool({'torch', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_three_lines_answer_as_evaluation_does(models, image, kind):
    network, header = load_weights(models["torch"])
    stored = fit_image(image, 64, aspect="squash", window="voi")
    logits = evaluated(network, stored[None], 32)
    p = probabilities(logits, "multiclass", header.calibration)

    answer = cxr_deploy.load(models[kind], threads=1)(image)

    np.testing.assert_allclose([answer.probabilities[label] for label in header.labels], p[0], atol=1e-5)
    assert list(answer.decisions.values()) == decide(p, header.thresholds, "multiclass")[0].tolist()
    assert list(answer.logits) == ["NORMAL", "PNEUMONIA"]
    for one in answer.heatmaps.values():
        assert one.shape == (32, 32)
        assert 0 <= one.min() <= one.max() <= 1


def test_files_become_the_pixels_a_cohort_would_store(models, shared_data):
    classifier = cxr_deploy.load(models["onnx"], threads=1)
    for file in sorted((shared_data / "formats").rglob("*.*")):
        if file.suffix in (".png", ".jpeg"):
            np.testing.assert_array_equal(classifier.read(file), read_image(file, 64, aspect="squash", window="voi"))


def test_a_batch_answers_as_its_images_do(models, image):
    classifier = cxr_deploy.load(models["onnx"], threads=1)
    stored = np.stack([fit_image(image, 64), fit_image(image[:, ::-1], 64)])
    both = classifier.answers(stored)
    single = [classifier.answers(stored[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(both.probabilities, np.concatenate([s.probabilities for s in single]), atol=1e-6)
    expected = classifier.run(whole(stored, 32)[:, None])
    np.testing.assert_array_equal(both.logits, expected["logits"])


def test_heat_is_the_positive_part_with_maximum_one():
    maps = np.array([[[-1, 2], [4, 0]], [[-1, -2], [-3, -4]]], np.float32)
    actual = heat(maps, 2)
    np.testing.assert_allclose(actual, [[[0, 0.5], [1, 0]], [[0, 0], [0, 0]]])
    assert heat(maps, 7).shape == (2, 7, 7)


def test_a_network_without_maps_has_no_heatmaps(models, image):
    assert cxr_deploy.load(models["flat"])(image).heatmaps == {}


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 32, 32), np.uint8), r"shape \(3, 32, 32\)"),
        (np.zeros((32, 32), np.int64), "int64"),
        (np.zeros((32, 32)), "float64"),
        (np.full((32, 32), 7, np.uint8), "blank"),
        (np.zeros((8, 32), np.uint8), "8 x 32"),
        (np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32), "float32 values from 0 to 1"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_what_is_no_gray_image_is_refused(models, array, says):
    with pytest.raises(BadInput, match=says):
        cxr_deploy.load(models["torch"])(array)


def test_models_that_are_not_there_or_do_not_fit_are_refused(models, tmp_path):
    with pytest.raises(BadInput, match="nothing there"):
        cxr_deploy.load(tmp_path / "model.onnx")
    with pytest.raises(BadInput, match="none of model"):
        cxr_deploy.load(tmp_path)
    with pytest.raises(BadInput, match="did you mean"):
        cxr_deploy.load(models["onnx"], runtime="onnxruntim")
    with pytest.raises(BadInput, match="for torch"):
        cxr_deploy.load(models["onnx"], runtime="torch")
    with pytest.raises(BadInput, match="for onnxruntime"):
        cxr_deploy.load(models["torch"].parent, runtime="onnxruntime")


def test_a_runtime_added_elsewhere_is_the_one_that_answers(models, monkeypatch):
    asked = []

    def mine(file, *, threads=0):
        asked.append((file, threads))
        return runtimes.in_onnxruntime(file, threads=threads)

    monkeypatch.setitem(runtimes.RUNTIMES, "mine", runtimes.Runtime("Mine", mine, {"fp32": {}}))
    cxr_deploy.load(models["onnx"], runtime="mine", threads=1)
    assert asked == [(models["onnx"], 1)]
