"""The rows of a benchmark: a model, a runtime, a precision, and the function that runs it."""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_data.files import sha256
from cxr_data.machine import cpu_has_bf16
from cxr_data.models.header import Header, describe_onnx, made_from
from cxr_data.models.model_files import find, names
from cxr_deploy import runtimes
from cxr_deploy.extras import installed, require
from cxr_deploy.predict.classifier import find_model
from cxr_deploy.runtimes import Run

Make = Callable[[Path, int], Run]

EAGER = ("PyTorch eager", "fp32")
"""What every other row of the same model is compared with."""
INT8 = "model.int8.onnx"
ALL = "validation images, from the file"
SAMPLED = "validation images that export-model compared 8 bits on, from the file"


def _in_torch(path: Path, threads: int, **options: Any) -> Run:
    """A weights file in PyTorch; the number of threads is the process's."""
    from cxr_common.checkpoint import load
    from cxr_deploy.export.torch_runtime import in_torch

    return in_torch(*load(path, kind="model"), **options)


def _in_runtime(runtime: runtimes.Runtime, precision: str, path: Path, threads: int) -> Run:
    return runtime.load(path, threads=threads, **runtime.options[precision])


def makers() -> dict[tuple[str, str], Make]:
    """(runtime, precision) -> how a file becomes a function: (file, threads) -> run.

    float16 is left out: processors compute it by way of float32, many times slower than bfloat16.
    """
    folded = "PyTorch folded, channels-last"
    return {
        EAGER: _in_torch,
        (folded, "fp32"): functools.partial(_in_torch, fold=True),
        (folded, "bf16"): functools.partial(_in_torch, fold=True, bf16=True),
        ("PyTorch on the GPU", "fp32"): functools.partial(_in_torch, fold=True, device="cuda"),
        ("PyTorch on the GPU", "bf16"): functools.partial(_in_torch, fold=True, bf16=True, device="cuda"),
        **{
            (runtime.title, precision): functools.partial(_in_runtime, runtime, precision)
            for runtime in runtimes.RUNTIMES.values()
            for precision in runtime.options
        },
    }


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        model: Name of the model.
        runtime: First part of a key of :func:`makers`.
        precision: Second part.
        file: What is loaded.
        header: Header of the weights.
        auroc: Validation AUROC the file carries, or None.
        auroc_of: What it was measured on.
    """

    model: str
    runtime: str
    precision: str
    file: Path
    header: Header
    auroc: float | None
    auroc_of: str

    @property
    def name(self) -> str:
        """How the row is called."""
        return f"{self.model}: {self.runtime} {self.precision}"

    def load(self, threads: int) -> Run:
        """Make it run."""
        return makers()[self.runtime, self.precision](self.file, threads)


def model_files(given: Sequence[str], runs_dir: str, run: str) -> dict[str, Path]:
    """The files to time by name; names are folders, as evaluation gives them.

    Raises:
        BadInput: A path without a model, or a run without any.
    """
    files = [find_model(path) for path in given] or find([], runs_dir, run)
    files = list(dict.fromkeys(files))
    short = names(files)
    return {
        f"{name}/{file.name}" if file.suffix == ".onnx" else name: file for name, file in zip(short, files, strict=True)
    }


def entries(files: Mapping[str, Path], scratch: Path) -> tuple[list[Entry], list[str]]:
    """Every row that can be timed here.

    Args:
        files: Model name -> .safetensors or .onnx file.
        scratch: Folder for ONNX files that have to be made for this.

    Returns:
        The rows, and notes on those that are missing.
    """
    rows: list[Entry] = []
    notes: list[str] = []
    for name, file in files.items():
        if file.suffix == ".onnx":
            rows += _of_onnx(name, file)
        else:
            rows += _of_weights(name, file, scratch, notes)
    if not installed("openvino"):
        notes.append("OpenVINO is not installed: pip install 'cxr-deploy[openvino]'")
    return rows, notes


def versions() -> dict[str, str]:
    """Versions of the runtimes there are."""
    there = {"torch": installed("export"), "onnxruntime": True, "openvino": installed("openvino")}
    return {name: importlib.metadata.version(name) for name, known in there.items() if known}


def _of_onnx(name: str, file: Path) -> Iterator[Entry]:
    header, about = describe_onnx(file)
    eight = file if about["precision"] == "int8" else file.with_name(INT8)
    yield from _onnx_rows(name, file, header, about["precision"], _validation(header, eight, made_from(file)))


def _of_weights(name: str, file: Path, scratch: Path, notes: list[str]) -> Iterator[Entry]:
    require("export", f"timing the weights {file}, which takes PyTorch,")
    from cxr_common.checkpoint import load
    from cxr_deploy.export import onnx_file
    from cxr_deploy.export.answer import Answering
    from cxr_deploy.export.convert import convert

    network, header = load(file, kind="model")
    digest, exported = sha256(file), file.parent / "export"
    validation = _validation(header, exported / INT8, digest)
    if header.bits:
        if (exported / INT8).is_file() and made_from(exported / INT8) == digest:
            yield from _onnx_rows(name, exported / INT8, header, "int8", validation)
        else:
            notes.append(f"{name}: trained in 8 bits, which PyTorch only imitates; export it first: export-model")
        return
    for runtime, precision in makers():
        if runtime.startswith("PyTorch") and _possible(runtime, precision):
            yield Entry(name, runtime, precision, file, header, *validation["fp32"])
    ready = {path.name: path for path in exported.glob("*.onnx") if made_from(path) == digest}
    plain = ready.get("model.onnx")
    if plain is None:
        plain = scratch / f"{digest[:16]}.onnx"
        model = convert(Answering(network, header), header)
        onnx_file.describe(model, header, {"schema": 1, "precision": "fp32", "source": {"sha256": digest}})
        onnx_file.save(model, plain)
    yield from _onnx_rows(name, plain, header, "fp32", validation)
    if INT8 in ready:
        yield from _onnx_rows(name, ready[INT8], header, "int8", validation)
    else:
        notes.append(f"{name}: no 8-bit file of these weights beside it; `export-model` makes one where AUROC holds")


def _possible(runtime: str, precision: str) -> bool:
    """Whether this machine can compute in PyTorch in that way."""
    from cxr_common.training.accelerator import has_bf16, uses_cuda

    on_gpu = runtime.endswith("GPU")
    return (not on_gpu or uses_cuda()) and (precision != "bf16" or has_bf16(on_gpu))


def _validation(header: Header, eight: Path, digest: str | None) -> dict[str, tuple[float | None, str]]:
    """Precision of a file -> its validation AUROC and what that was measured on.

    Both are of the images that export-model compared the two files on, where there is such an 8-bit file: figures of
    other images side by side would show a loss, or hide one, that is a matter of the sample.
    """
    figures = {"fp32": (_number(header.metrics.get("val_auroc")), ALL), "int8": (None, SAMPLED)}
    if not eight.is_file() or made_from(eight) != digest:
        return figures
    kept = describe_onnx(eight)[1].get("quantisation") or {}
    auroc, drop = _number(kept.get("auroc")), _number(kept.get("drop"))
    figures["int8"] = (auroc, SAMPLED)
    if auroc is not None and drop is not None:
        figures["fp32"] = (auroc + drop, SAMPLED)
    return figures


def _onnx_rows(
    name: str, file: Path, header: Header, made: str, validation: Mapping[str, tuple[float | None, str]]
) -> Iterator[Entry]:
    for runtime in runtimes.RUNTIMES.values():
        for precision in runtime.options:
            fits = (precision == "int8") == (made == "int8") and (precision != "bf16" or cpu_has_bf16())
            if fits and (runtime.extra is None or installed(runtime.extra)):
                yield Entry(name, runtime.title, precision, file, header, *validation[made])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
