import numpy as np
import pytest

import cxr_deploy
from cxr_data.errors import BadInput
from cxr_deploy import runtimes
from cxr_deploy.config import PredictConfig
from cxr_deploy.predict import classifier


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_gpu_that_is_not_there_is_refused(kind, models, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(runtimes, "onnxruntime_has_cuda", lambda: False)
    with pytest.raises(BadInput, match="--device cpu"):
        cxr_deploy.load(models[kind], device="cuda")


def test_an_onnx_runtime_for_gpus_without_one_answers_on_the_cpu_unless_a_gpu_is_asked_for(models, monkeypatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    expected = cxr_deploy.load(models["onnx"], device="cpu")(image).probabilities
    monkeypatch.setattr(runtimes, "onnxruntime_has_cuda", lambda: True)  # its session then has CPU providers alone
    monkeypatch.setattr("onnxruntime.InferenceSession", without_gpu(__import__("onnxruntime").InferenceSession))
    assert cxr_deploy.load(models["onnx"])(image).probabilities == expected
    with pytest.raises(BadInput, match="fell back to the CPU"):
        cxr_deploy.load(models["onnx"], device="cuda")


def without_gpu(session):
    def opened(source, options, providers):
        known = [provider for provider in providers if provider == "CPUExecutionProvider"]
        return session(source, options, providers=known)

    return opened


def test_eight_bit_graphs_stay_on_the_cpu_unless_a_gpu_is_asked_for(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr(runtimes, "onnxruntime_has_cuda", lambda: True)
    monkeypatch.setattr(runtimes, "in_onnxruntime", lambda file, *, threads, device: asked.append(device))
    for device, precision in ((None, "int8"), (None, "fp32"), ("cuda", "int8"), ("cpu", "fp32")):
        classifier._graph(tmp_path, 0, device, precision)
    assert asked == ["cpu", "cuda", "cuda", "cpu"]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(BadInput, match="cuda"):
        PredictConfig(["model.onnx", "x.png"], device="cudda")
