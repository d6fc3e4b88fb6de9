"""Chest radiograph classifiers in use: ONNX files, answers for new images, a page for the browser, timing; no torch.

A model file answers in three lines:

>>> import cxr_deploy
>>> classify = cxr_deploy.load("model.onnx")  # or model.safetensors, with the extra "export"
>>> answer = classify(image)  # (H, W) gray
>>> answer.probabilities["effusion"], answer.decisions["effusion"], answer.heatmaps["effusion"].shape
(0.5, True, (32, 32))
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxr_deploy.predict.classifier import Classifier

__all__ = ["load"]


def load(path: str | Path, *, runtime: str = "auto", threads: int = 0, device: str | None = None) -> "Classifier":
    """A classifier that answers for one gray image at a time.

    Args:
        path: A .onnx or model.safetensors file, or its folder.
        runtime: "torch", "onnxruntime", "openvino", or for .onnx files "fastest", which is measured on this machine
            once for each file and then remembered, or "auto": the fastest once it is known, else ONNX Runtime.
        threads: CPU threads; 0 takes every core.
        device: "cpu" or "cuda"; None is cuda where there is a GPU that the runtime can use, but for 8-bit files.

    Returns:
        See :class:`cxr_deploy.predict.classifier.Classifier`.

    Raises:
        BadInput: No such file, one of another origin, a backbone, or a runtime that cannot run it.

    Examples:
        >>> import cxr_deploy
        >>> classify = cxr_deploy.load("model.onnx", threads=1)
        >>> classify(image).probabilities
        {'effusion': 0.5}
    """
    from cxr_deploy.predict.classifier import load as load_classifier

    return load_classifier(path, runtime=runtime, threads=threads, device=device)
