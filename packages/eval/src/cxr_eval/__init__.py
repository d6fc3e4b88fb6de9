"""Evaluation of chest radiograph classifiers: metrics, uncertainty, speed, one report; export and prediction.

In three lines::

    import cxr_eval
    classify = cxr_eval.load("model.onnx")
    answer = classify(image)  # (H, W) gray; answer.probabilities, answer.decisions, answer.heatmaps
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_eval.predict.classifier import Classifier

__all__ = ["load"]


def load(path: str | Path, *, runtime: str = "auto", threads: int = 0) -> "Classifier":
    """A classifier that answers for one gray image at a time.

    Args:
        path: A model.safetensors or .onnx file, or its folder.
        runtime: "torch", "onnxruntime", "openvino", or "auto": what the file is for.
        threads: CPU threads; 0 takes every core.

    Returns:
        See :class:`cxr_eval.predict.classifier.Classifier`.

    Raises:
        BadInput: No such file, one of another origin, a backbone, or a runtime that cannot run it.
    """
    from cxr_eval.predict.classifier import load as load_classifier

    return load_classifier(path, runtime=runtime, threads=threads)
