"""Exported files as functions from gray pixels to answers, in ONNX Runtime and OpenVINO; PyTorch is not needed.

Nothing heavy is imported before a file is loaded: ``--help`` lists the runtimes.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxr_data.errors import BadInput, require_known
from cxr_data.models.onnx_session import CPU, open_session
from cxr_deploy.extras import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INPUT = "pixels"
OUTPUTS = ("probabilities", "logits", "maps")
"""Names of what a graph takes, and of what it gives, in order; "maps" only where the network has any."""

CUDA = "CUDAExecutionProvider"
"""ONNX Runtime's name for GPUs of NVIDIA."""

Run = Callable[["NDArray[np.uint8]"], "dict[str, NDArray[np.float32]]"]
"""(B, 1, S, S) uint8 to "probabilities" (B, L), "logits" (B, L) and, where there are any, "maps" (B, L, h, w)."""


def probabilities(run: Run, images: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """Probabilities (N, L) of images (N, 1, S, S), 32 at a time."""
    import numpy as np

    return np.concatenate([run(images[at : at + 32])["probabilities"] for at in range(0, len(images), 32)])


def in_onnxruntime(model: str | Path | bytes, *, threads: int = 0, device: str = "cpu") -> Run:
    """An exported file in ONNX Runtime.

    Args:
        model: The file, or its bytes.
        threads: CPU threads; 0 takes every core.
        device: "cpu" or "cuda"; there too float32 is not rounded to TF32.

    Raises:
        BadInput: ONNX Runtime cannot run it, or not on that device.
    """
    providers: list[Any] = [CPU]
    if device == "cuda":
        if not onnxruntime_has_cuda():
            do = "pip install onnxruntime-gpu in place of onnxruntime; or --device cpu"
            raise BadInput("ONNX Runtime with its CUDA provider", "the one for CPUs", where="--device cuda", do=do)
        providers.insert(0, (CUDA, {"use_tf32": 0}))
    session = open_session(model, threads=threads, providers=providers)
    if device == "cuda" and CUDA not in session.get_providers():
        do = "install the CUDA and cuDNN that this onnxruntime-gpu names; or --device cpu"
        raise BadInput("a GPU that ONNX Runtime can use", "none: it fell back to the CPU", where="--device cuda", do=do)
    names = [output.name for output in session.get_outputs()]

    def run(pixels: "NDArray[np.uint8]") -> "dict[str, NDArray[np.float32]]":
        answers: Any = session.run(names, {INPUT: pixels})
        return dict(zip(names, answers, strict=True))

    return run


def onnxruntime_has_cuda() -> bool:
    """Whether the ONNX Runtime installed was built for GPUs of NVIDIA."""
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def in_openvino(model: str | Path | bytes, *, threads: int = 0, bf16: bool = False) -> Run:
    """An exported file in OpenVINO on the CPU.

    Args:
        model: The file, or its bytes.
        threads: CPU threads; 0 takes every core.
        bf16: Let it compute in bfloat16; else in float32 (8-bit layers stay 8-bit layers).

    Raises:
        BadInput: OpenVINO is not installed.
    """
    require("openvino", "the runtime openvino")
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    # Its import would report itself to its makers through this package; where it is not there, it has a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType] - what says "not there"
    import openvino

    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    if not threads:
        del config["INFERENCE_NUM_THREADS"]
    core = openvino.Core()
    network = core.read_model(model if isinstance(model, bytes) else str(model))
    # OpenVINO 2026.4 gives the thread that compiles a stack for signals, and the one before back with the model; of two
    # models freed in turn, that is the first one's, long gone, and the next signal kills the process. No signal
    # reaches a thread that has ended.
    with ThreadPoolExecutor(1) as thread:
        compiled = thread.submit(core.compile_model, network, "CPU", config).result()
    # A tensor has the names of every node that passes it on; ours is among them.
    names = [next(name for name in OUTPUTS if name in output.get_names()) for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(pixels: "NDArray[np.uint8]") -> "dict[str, NDArray[np.float32]]":
        answers = request.infer({INPUT: pixels}, share_inputs=True)
        return {name: np.array(answers[i]) for i, name in enumerate(names)}

    return run


class Runtime(NamedTuple):
    """A runtime of ONNX files.

    Attributes:
        title: Its name in tables.
        load: Makes a function of a file: (file, threads=..., **options).
        options: Precision it computes in -> options of ``load``.
        extra: The extra of this package that brings it; None where it is always there.
    """

    title: str
    load: Callable[..., Run]
    options: Mapping[str, Mapping[str, Any]]
    extra: str | None = None


RUNTIMES = {
    "onnxruntime": Runtime("ONNX Runtime", in_onnxruntime, {"fp32": {}, "int8": {}}),
    "openvino": Runtime("OpenVINO", in_openvino, {"fp32": {}, "bf16": {"bf16": True}, "int8": {}}, "openvino"),
}
"""Every runtime of ONNX files, by its name in options."""


def check_name(name: str) -> None:
    """See that a runtime has this name.

    Raises:
        BadInput: It is none of "auto", "fastest" and "torch", nor in :data:`RUNTIMES`.
    """
    known = ("auto", "fastest", "torch", *RUNTIMES)
    require_known("runtime", name, known)
