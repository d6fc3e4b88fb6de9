import json

import numpy as np
import pytest

import cxr_deploy
from cxr_data.cohorts.cache import cache_folder
from cxr_data.models.header import Header, Input
from cxr_deploy import runtimes
from cxr_deploy.predict import fastest


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.onnx").write_bytes(b"any")
    return tmp_path / "model.onnx"


@pytest.fixture
def loaded(monkeypatch):
    """Two runtimes, of which the second takes a thousandth of the time; the names loaded."""
    names = []
    monkeypatch.setattr(fastest, "SECONDS", 0.02)
    monkeypatch.setattr(fastest, "installed", lambda extra: True)
    for name, work in (("onnxruntime", 300_000), ("openvino", 300)):

        def load(path, *, threads, name=name, work=work):
            names.append(name)
            return lambda pixels: np.arange(work).sum()

        monkeypatch.setitem(runtimes.RUNTIMES, name, runtimes.RUNTIMES[name]._replace(load=load))
    return names


HEADER = Header("model", "any", Input(32, 0.5, 0.2))


def test_the_fastest_is_measured_once_and_remembered(file, loaded, capsys):
    assert fastest.remembered(file, "fp32", 1) == "onnxruntime"
    assert fastest.measured(file, HEADER, "fp32", 1) == "openvino"
    assert loaded == ["onnxruntime", "openvino"]
    assert "OpenVINO from now on" in capsys.readouterr().out
    assert fastest.measured(file, HEADER, "fp32", 1) == fastest.remembered(file, "fp32", 1) == "openvino"
    assert len(loaded) == 2  # not again
    assert fastest.remembered(file, "fp32", 2) == "onnxruntime"  # other threads, another question
    file.write_bytes(b"another")
    assert fastest.remembered(file, "fp32", 1) == "onnxruntime"


def test_a_damaged_memory_is_measured_again(file, loaded):
    fastest.measured(file, HEADER, "fp32", 1)
    place = cache_folder() / fastest.REMEMBERED
    assert next(iter(json.loads(place.read_text()).values()))["fastest"] == "openvino"
    place.write_text("{")
    assert fastest.measured(file, HEADER, "fp32", 1) == "openvino"
    assert len(loaded) == 4


def test_one_runtime_needs_no_measurement(file, loaded, monkeypatch):
    monkeypatch.setattr(fastest, "installed", lambda extra: False)
    assert fastest.measured(file, HEADER, "int8", 1) == "onnxruntime"
    assert not loaded


def test_auto_takes_what_is_remembered(models, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    asked = []
    monkeypatch.setattr(fastest, "remembered", lambda *args: asked.append("remembered") or "onnxruntime")
    monkeypatch.setattr(fastest, "measured", lambda *args: asked.append("measured") or "onnxruntime")
    for runtime in ("auto", "fastest", "onnxruntime"):
        cxr_deploy.load(models["onnx"], runtime=runtime, threads=1)
    assert asked == ["remembered", "measured"]
