"""``export-model``: from a weights file to checked ONNX files and, on request, a page that runs them.

``export.json`` (schema 1) holds ``source`` (path and SHA-256 of the weights), ``files`` (name -> bytes, SHA-256 and
precision), ``check`` (images, batches, largest difference of a probability to PyTorch, and ``differences`` of every
output as :func:`cxr_deploy.export.onnx_file.compare` counts them), ``quantisation`` (what was tried, what was kept or
why nothing was; null when not asked for) and ``provenance``.

There is no bf16 or fp16 file. Processors compute float16 by way of float32, which is slower than float32 alone;
bfloat16 pays in OpenVINO and PyTorch, which round the float32 file's numbers themselves: ``benchmark-model`` times
both.
"""

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cxr_common.checkpoint import Header, load
from cxr_common.models.zoo import GrayNetwork
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.suggestions import suggest, typed
from cxr_data.command_line.terminal import say
from cxr_data.errors import BadInput
from cxr_data.files import refuse_unwritable, sha256, write_json
from cxr_data.models.header import made_now
from cxr_data.models.licences import trail
from cxr_data.models.model_files import find, names, read_headers
from cxr_deploy import cohort as images_of
from cxr_deploy import runtimes
from cxr_deploy.config import ExportConfig
from cxr_deploy.export import onnx_file, quantise, torch_runtime
from cxr_deploy.export.agreement import LEAST_AGREEMENT
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.trained import Source, convert_trained
from cxr_deploy.runtimes import OUTPUTS
from cxr_deploy.web.build import build, check_folder

SCHEMA = 1
FLOAT, INT8, ABOUT = "model.onnx", "model.int8.onnx", "export.json"
MAX_DROP = 0.005
"""Largest loss of AUROC of a variant, where --max_drop names none."""
CHECKED = 8
"""Images the file is compared with PyTorch on, one by one and as one batch."""


def export(config: ExportConfig) -> list[Path]:
    """Export every model that is asked for.

    Raises:
        BadInput: No model, no cohort, an architecture that cannot be exported, or a file that answers otherwise than
            PyTorch.
    """
    files = find(config.models, config.runs_dir, config.run)
    for option, folder in (("--web", config.web), ("--out", config.out)):
        if folder and len(files) > 1:  # the last would be served, or kept, in place of all others
            raise BadInput(
                f"one model where {option} is given",
                f"{len(files)}: {', '.join(names(files))}",
                where=option,
                do=f"name it: {typed('export-model', _meant(files).parent, **{option[2:]: folder})}",
            )
    read_headers({str(file): file for file in files})
    folders = [_export_one(config, file) for file in files]
    say(f"new images:  {typed('predict', _shown(folders[-1]), 'IMAGES')}")
    run = files[-1].parent.parent  # the timings lie with the models
    say(suggest("benchmark-model", *(file.parent for file in files), run=run.name or ".", runs_dir=str(run.parent)))
    return folders


def _meant(files: Sequence[Path]) -> Path:
    """The model of several that somebody is likeliest to mean: a student, not its teacher or control."""
    others = [file for file in files if file.parent.name != "teacher" and not file.parent.name.endswith("-control")]
    return others[0] if others else files[-1]


def _shown(folder: Path) -> Path:
    """The file that new images are best answered by: the float one, where there is one."""
    return folder / (FLOAT if (folder / FLOAT).exists() else INT8)


def _export_one(config: ExportConfig, file: Path) -> Path:
    if config.web:
        check_folder(Path(config.web))
    network, header = load(file, kind="model")
    folder = Path(config.out) if config.out else file.parent / "export"
    if folder.is_file():
        raise BadInput("a folder", "a file", where=folder, do="choose another --out")
    refuse_unwritable(folder)
    source = Source(config, file, network, header, images_of.open_for(header, config.data, file))
    if header.bits and not config.int8:
        raise BadInput("a float model", "one trained in 8 bits", where=file, do="leave --int8 false out")
    samples = _samples(config, source.cohort) if config.int8 and not header.bits else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:60]}.", suffix=".tmp", dir=folder.parent) as working:
        if header.bits:
            _make_trained(source, Path(working))
        else:
            _make(source, samples, Path(working))
        _move(Path(working), folder)
    say(f"wrote {folder}")
    for line in trail(header.licence, header.ancestors):
        say(line)
    if config.web:
        exported = folder / (INT8 if (folder / INT8).exists() else FLOAT)
        build(Path(config.web), exported, names([file])[0], config.ort_web)
        served = ["python", "-m", "http.server", "-d", config.web]
        say(f"wrote {config.web} with {exported.name}; look at it with:  {shlex.join(served)}")
    return folder


def _samples(config: ExportConfig, cohort: Cohort) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that show the ranges of 8-bit values, and rows that variants are compared on."""
    do = "--int8 false leaves 8 bits out"
    if not cohort.labels:
        raise BadInput("a cohort with labels for 8 bits", "one without", where=cohort.source, do=do)
    calibration = images_of.sample(cohort, "train", config.calibration_images)
    validation = images_of.sample(cohort, "val", config.validation_images)
    for split, rows in (("training", calibration), ("validation", validation)):
        if not len(rows):
            raise BadInput(f"{split} images for 8 bits", "none", where=cohort.source, do=do)
    return calibration, validation


def _move(working: Path, folder: Path) -> None:
    """Give finished files their names, all at once as nearly as can be; of an earlier export nothing stays."""
    folder.mkdir(exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)  # killed here, no list is left rather than that of other files
    for name in (FLOAT, INT8, ABOUT):
        if (working / name).exists():
            (working / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _make(source: Source, samples: tuple[NDArray[np.int64], NDArray[np.int64]] | None, folder: Path) -> None:
    """Write the files into an empty folder."""
    network, header, cohort = source.network, source.header, source.cohort
    answering = Answering(network, header)
    about = {"schema": SCHEMA, "precision": "fp32", "source": source.about, "outputs": _outputs(answering)}

    say(f"export-model: {header.architecture}, {header.input.size} px, {len(header.labels)} labels, from {source.file}")
    model = convert(answering, header)
    images = images_of.pixels(cohort, checked_rows(cohort), header.input.size)
    differences = check(model.SerializeToString(), network, header, images)
    about["check"] = {
        "images": len(images),
        "batches": [1, len(images)],
        "cohort": cohort.name,
        "largest_difference": differences["probabilities"],
        "differences": differences,
    }
    onnx_file.describe(model, header, about)
    onnx_file.save(model, folder / FLOAT)
    largest = differences["probabilities"]
    say(f"  {FLOAT}: within {largest:.1e} of PyTorch's probabilities on {len(images)} images of {cohort.name}")
    if not answering.maps:
        say("  no heat maps: the network does not end in global average pooling and a linear layer")

    quantised = _quantise(source, model, about, *samples, folder) if samples else None
    _write_about(source, about["check"], quantised, folder)


def _make_trained(source: Source, folder: Path) -> None:
    """Write the one file of a network that was trained in 8 bits into an empty folder."""
    header, outputs = source.header, _outputs(Answering(source.network, source.header))
    say(f"export-model: {header.architecture} in 8 bits, {header.input.size} px, from {source.file}")
    model, checked, cost = convert_trained(source)
    about = {"schema": SCHEMA, "precision": "int8", "source": source.about, "outputs": outputs}
    onnx_file.describe(model, header, {**about, "check": checked, "quantisation": cost})
    onnx_file.save(model, folder / INT8)
    _write_about(source, checked, {"kept": cost["name"], "variants": [cost]}, folder)


def _write_about(source: Source, checked: Any, quantised: Mapping[str, Any] | None, folder: Path) -> None:
    """Write export.json."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "source": {**source.about, "path": str(source.file)},
        "check": checked,
        "quantisation": quantised,
        "provenance": made_now(source.config),
    }
    document["files"] = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name), "precision": precision}
        for name, precision in ((FLOAT, "fp32"), (INT8, "int8"))
        if (folder / name).exists()
    }
    write_json(folder / ABOUT, document)


def _quantise(
    source: Source,
    model: onnx.ModelProto,
    about: dict[str, Any],
    calibration: NDArray[np.int64],
    validation: NDArray[np.int64],
    folder: Path,
) -> dict[str, Any]:
    """Make the 8-bit file where one qualifies; the report either way."""
    config, header, cohort = source.config, source.header, source.cohort
    size, variants = header.input.size, quantise.VARIANTS
    say(
        f"  8 bits: {len(variants)} variants, calibrated on {len(calibration)} training images, compared on "
        f"{len(validation)} validation images of {cohort.name}"
    )
    graph, report = quantise.search(
        model,
        header,
        images_of.pixels(cohort, calibration, size),
        images_of.pixels(cohort, validation, size),
        images_of.targets(cohort, validation, header),
        cohort.groups[validation],
        max_drop=MAX_DROP if config.max_drop is None else config.max_drop,
        threads=config.threads,
        variants=variants,
    )
    for row in report["variants"]:
        say(f"    {_variant_line(row)}{'  <- kept' if row['name'] == report['kept'] else ''}")
    if graph is None:
        say(f"  no 8-bit file: {report['reason']}")
        return report
    kept = next(row for row in report["variants"] if row["name"] == report["kept"])
    onnx_file.describe(graph, header, {**about, "precision": "int8", "quantisation": kept})
    onnx_file.save(graph, folder / INT8)
    ratio = (folder / INT8).stat().st_size / (folder / FLOAT).stat().st_size
    say(f"  {INT8}: {kept['speedup']:.1f} times the speed of the float file, {ratio:.2f} of its size")
    for line in _decision_lines(kept):
        say(f"  {line}")
    return report


def _decision_lines(kept: Mapping[str, Any]) -> list[str]:
    """What 8 bits do to decisions, and a warning where that is much."""
    changes = [
        f"{name} {kept[f'{name}_change']:+.3f}"
        for name in ("sensitivity", "specificity")
        if kept[f"{name}_change"] is not None
    ]
    lines = [", ".join([f"{kept['agreement']:.1%} of its decisions are those of the float file", *changes])]
    if kept["agreement"] < LEAST_AGREEMENT:
        lines.append(
            f"warning: below {LEAST_AGREEMENT:.0%}. Temperature and thresholds were fitted to the float file: give "
            f"{FLOAT} where decisions count, or set thresholds of your own for {INT8}"
        )
    return lines


def _variant_line(row: Mapping[str, Any]) -> str:
    if row["drop"] is None:
        return f"{row['name']}: AUROC undefined"
    interval = "" if row["low"] is None else f" (95 % interval {row['low']:+.4f} to {row['high']:+.4f})"
    return f"{row['name']}: AUROC {row['auroc']:.4f}, loss {row['drop']:+.4f}{interval}, {row['latency_ms']:.1f} ms"


def checked_rows(cohort: Cohort) -> NDArray[np.int64]:
    """Rows of the images a file is checked on: of the validation part, else of any."""
    rows = images_of.sample(cohort, "val", CHECKED)
    return rows if len(rows) else np.arange(min(CHECKED, len(cohort)))


def check(model: bytes, network: GrayNetwork, header: Header, images: NDArray[np.uint8]) -> dict[str, float]:
    """Compare an exported file with PyTorch, image by image and as one batch.

    Args:
        model: The file's bytes.
        network: The network it was made from.
        header: Its header.
        images: (N, 1, S, S) uint8.

    Returns:
        Largest difference of every output, see :func:`onnx_file.compare`.

    Raises:
        BadInput: One is above :data:`onnx_file.TOLERANCE`, or the file cannot take both batch sizes.
    """
    expected = torch_runtime.in_torch(network, header)(images)
    run = runtimes.in_onnxruntime(model)
    do = "use the safetensors file; an architecture whose answer depends on the batch cannot be exported by tracing"
    try:
        single = [run(images[i : i + 1]) for i in range(len(images))]
        batch = run(images)
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise BadInput(
            "a graph that takes batches of any size", str(error).splitlines()[0][:200], where=header.architecture, do=do
        ) from error
    joined = {name: np.concatenate([answer[name] for answer in single]) for name in batch}
    one, many = onnx_file.compare(expected, joined), onnx_file.compare(expected, batch)
    differences = {name: float(np.maximum(one[name], many[name])) for name in one}  # keeps NaN, which max may not
    for name, difference in differences.items():
        if not difference <= onnx_file.TOLERANCE[name]:
            raise BadInput(
                f"{name} within {onnx_file.TOLERANCE[name]:g} of PyTorch's",
                f"a difference of {difference:.2g}",
                where=header.architecture,
                do=do,
            )
    return differences


def _outputs(answering: Answering) -> list[str]:
    return list(OUTPUTS[: 3 if answering.maps else 2])
