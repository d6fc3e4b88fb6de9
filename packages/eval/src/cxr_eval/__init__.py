"""Evaluation of chest radiograph classifiers: metrics, uncertainty, speed, one report; export and prediction.

A model file answers in three lines:

>>> import cxr_eval
>>> classify = cxr_eval.load("model.safetensors")  # or model.onnx
>>> answer = classify(image)  # (H, W) gray
>>> answer.probabilities["effusion"], answer.decisions["effusion"], answer.heatmaps["effusion"].shape
(0.5, True, (32, 32))

Two models on the same images, with images of one patient as one cluster:

>>> from cxr_eval.statistics.delong import compare
>>> test = compare(targets, better, good, patients)
>>> bool(test.difference > 0), bool(test.p < 0.01)
(True, True)
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_deploy.predict.classifier import Classifier

__all__ = ["load"]


def load(path: str | Path, *, runtime: str = "auto", threads: int = 0) -> "Classifier":
    """A classifier that answers for one gray image at a time.

    Args:
        path: A model.safetensors or .onnx file, or its folder.
        runtime: "torch", "onnxruntime", "openvino", or "auto": what the file is for.
        threads: CPU threads; 0 takes every core.

    Returns:
        See :class:`cxr_deploy.predict.classifier.Classifier`.

    Raises:
        BadInput: No such file, one of another origin, a backbone, or a runtime that cannot run it.
    """
    from cxr_deploy.predict.classifier import load as load_classifier

    return load_classifier(path, runtime=runtime, threads=threads)
