"""Load a model file as a function from radiographs to answers."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_data.augment import whole
from cxr_data.errors import BadInput, unknown_name
from cxr_data.images.header import BrokenImage
from cxr_data.images.read import fit_image, read_image
from cxr_data.models import hub
from cxr_data.models.decisions import decide, probabilities
from cxr_data.models.header import Header, describe_onnx
from cxr_data.preparation.sizes import pixel_size_for
from cxr_deploy import runtimes
from cxr_deploy.config import DEVICES
from cxr_deploy.extras import require
from cxr_deploy.runtimes import Run

PIXELS = {"aspect": "squash", "window": "voi"}
"""How files become pixels where a header does not say."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Attributes:
        probabilities: Calibrated probability of each label, in [0, 1].
        decisions: Whether each label is called, at the thresholds stored in the file.
        logits: What the probabilities were computed from.
        heatmaps: (S, S) float32 in [0, 1] for each label: where the evidence for it lies, 1 at its strongest place
            and 0 where there is none; empty where the network has no such maps.
    """

    probabilities: dict[str, float]
    decisions: dict[str, bool]
    logits: dict[str, float]
    heatmaps: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Answers:
    """What a model says of several images: arrays (B, L), maps (B, L, h, w) or None."""

    probabilities: NDArray[np.float64]
    decisions: NDArray[np.bool_]
    logits: NDArray[np.float32]
    maps: NDArray[np.float32] | None


class Classifier:
    """A model file as a function: ``classifier(image)`` answers for one (H, W) gray image.

    Args:
        header: Header of the weights.
        run: Computes the answers of a batch.
        path: The file.
        precision: "fp32" or "int8".

    Attributes:
        labels: Label names, in the order of every label axis.
        stored_size: Edge at which the training cohort's images were stored, pixels; new images are stored likewise.
    """

    def __init__(self, header: Header, run: Run, path: Path, precision: str):
        self.header, self.run, self.path, self.precision = header, run, path, precision
        self.labels, self.size = header.labels, header.input.size
        self.stored_size = int((header.cohort or {}).get("pixel_size") or pixel_size_for(self.size))
        self.mapping: Mapping[str, Any] = {**PIXELS, **{k: header.input.pixels.get(k, v) for k, v in PIXELS.items()}}

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """A file as pixels, decoded as the header's ``input.pixels`` says; (P, P) with P = ``stored_size``.

        Raises:
            BrokenImage: The file is no usable image.
        """
        return read_image(path, self.stored_size, **self.mapping)

    def answers(self, stored: NDArray[np.uint8]) -> Answers:
        """Answers for images as :meth:`read` gives them, (B, P, P) uint8.

        Raises:
            BadInput: Not such an array, or the model answers NaN or infinity.
        """
        if stored.dtype != np.uint8 or stored.ndim != 3:
            raise BadInput(
                "images as classifier.read gives them, (B, P, P) uint8",
                f"{stored.dtype} of shape {stored.shape}",
                do="classifier(image) takes one gray image of any size",
            )
        outputs = self.run(whole(stored, self.size)[:, None])
        if not np.isfinite(outputs["logits"]).all():
            raise BadInput(
                "finite answers",
                "NaN or infinity",
                where=self.path,
                do="its training diverged: train it again with a lower --lr or --precision fp32",
            )
        task = self.header.task or "multilabel"
        # From the logits in float64, as evaluation computes them.
        p = probabilities(outputs["logits"], task, self.header.calibration)
        return Answers(p, decide(p, self.header.thresholds, task), outputs["logits"], outputs.get("maps"))

    def __call__(self, image: NDArray[Any]) -> Answer:
        """Answer for one image.

        Args:
            image: (H, W) gray values, uint8 or uint16 over their whole range; air dark.

        Raises:
            BadInput: Not such an array, or every pixel has the same value.
        """
        check_array(image)
        try:
            stored = fit_image(image, self.stored_size, **self.mapping)
        except BrokenImage as error:
            raise BadInput("a radiograph", str(error), where="the array given") from error
        answers = self.answers(stored[None])
        maps = {} if answers.maps is None else heat(answers.maps[0], self.size)
        return Answer(
            dict(zip(self.labels, answers.probabilities[0].tolist(), strict=True)),
            dict(zip(self.labels, answers.decisions[0].tolist(), strict=True)),
            dict(zip(self.labels, answers.logits[0].tolist(), strict=True)),
            dict(zip(self.labels, maps, strict=True)) if len(maps) else {},
        )


def heat(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Class activation maps as heat: the positive part, its maximum 1, enlarged bicubically.

    Args:
        maps: (L, h, w).
        size: Edge of the result, pixels.

    Returns:
        (L, size, size) in [0, 1]; all 0 where a map is nowhere positive.
    """
    import cv2

    positive = np.maximum(maps, 0)
    top = positive.max(axis=(1, 2), keepdims=True)
    scaled = np.divide(positive, top, out=np.zeros_like(positive), where=top > 0)
    enlarged = [cv2.resize(array, (size, size), interpolation=cv2.INTER_CUBIC) for array in scaled]
    return np.clip(np.stack(enlarged), 0, 1)


def check_array(image: object) -> None:
    """Refuse what is no gray image of whole numbers.

    Raises:
        BadInput: Not a two-dimensional array of uint8 or uint16, at least 16 pixels each way.
    """
    do = "give one gray image (H, W) of uint8 or uint16; files are read by `predict` or classifier.read"
    if not isinstance(image, np.ndarray):
        raise BadInput("a NumPy array", type(image).__name__, do=do)
    if image.ndim != 2:
        raise BadInput("a gray image (H, W)", f"an array of shape {image.shape}", do=do)
    if np.issubdtype(image.dtype, np.floating):
        span = f" from {image.min():g} to {image.max():g}" if image.size else ""
        do = "scale it to 0..255 and convert it; of values in [0, 1]: (image * 255).round().astype(np.uint8)"
        raise BadInput("gray values as uint8 or uint16", f"{image.dtype} values{span}", do=do)
    if image.dtype not in (np.uint8, np.uint16):
        raise BadInput("gray values as uint8 or uint16", str(image.dtype), do=do)
    if min(image.shape) < 16:
        raise BadInput("at least 16 x 16 pixels", f"{image.shape[0]} x {image.shape[1]}", do=do)


def find_model(path: str | Path) -> Path:
    """The model file that a path names: itself, or the one in a folder or Hub repository ("hf:OWNER/NAME").

    Raises:
        BadInput: Nothing there.
    """
    path = hub.local(path)
    if path.is_dir():
        names = ("model.safetensors", "model.onnx", "model.int8.onnx")
        there = [path / name for name in names if (path / name).is_file()]
        if not there:
            raise BadInput("a folder with a model", f"none of {', '.join(names)}", where=path, do="name the model")
        return there[0]
    if not path.is_file():
        raise BadInput(
            "a model (.safetensors or .onnx) or its folder",
            "nothing there",
            where=path,
            do="check the path; predict takes the model first, then the images",
        )
    return path


def load(
    path: str | Path, *, runtime: str = "auto", threads: int = 0, device: str | None = None, measure: bool = False
) -> Classifier:
    """Load a model file; see :func:`cxr_deploy.load`. With ``measure``, "auto" is "fastest"."""
    runtimes.check_name(runtime)
    if device is not None and device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    file = find_model(path)
    if file.suffix == ".onnx":
        return _load_onnx(file, runtime, threads, device, measure=measure)
    require("export", "answering from a .safetensors file, which takes PyTorch,")
    from cxr_common.checkpoint import load as load_weights
    from cxr_deploy.export import torch_runtime

    if runtime not in ("auto", "fastest", "torch"):
        raise BadInput(f"an .onnx file for {runtime}", file.name, where=file, do="make one: export-model")
    network, header = load_weights(file, kind="model")
    import torch

    from cxr_common.training.accelerator import uses_cuda

    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("a GPU that PyTorch can use", "none", where="--device cuda", do="--device cpu")
    if threads:
        torch.set_num_threads(threads)
    return Classifier(
        header,
        torch_runtime.in_torch(network, header, device=device or ("cuda" if uses_cuda() else "cpu")),
        file,
        "fp32",
    )


def _load_onnx(file: Path, runtime: str, threads: int, device: str | None, *, measure: bool) -> Classifier:
    from cxr_deploy.predict import fastest

    if runtime == "torch":
        raise BadInput("a .safetensors file for torch", file.name, where=file, do="--runtime onnxruntime")
    header, about = describe_onnx(file)
    precision = about["precision"]
    if runtime in ("auto", "fastest"):
        if device == "cuda":  # what is measured and remembered is of this machine's CPU
            runtime = fastest.DEFAULT
        elif runtime == "fastest" or measure:
            runtime = fastest.measured(file, header, precision, threads)
        else:
            runtime = fastest.remembered(file, precision, threads)
    if runtime == fastest.DEFAULT:
        return Classifier(header, _graph(file, threads, device, precision), file, precision)
    if device == "cuda":
        raise BadInput("the runtime onnxruntime or torch for a GPU", runtime, where="--runtime", do="--device cpu")
    return Classifier(header, runtimes.RUNTIMES[runtime].load(file, threads=threads), file, precision)


def _graph(file: Path, threads: int, device: str | None, precision: str) -> Run:
    """A graph in ONNX Runtime; on a GPU, unless one is asked for, only where it works there."""
    if device is None and precision == "fp32" and runtimes.onnxruntime_has_cuda():
        with contextlib.suppress(BadInput):  # built for GPUs, but here there is none
            return runtimes.in_onnxruntime(file, threads=threads, device="cuda")
    return runtimes.in_onnxruntime(file, threads=threads, device=device or "cpu")
