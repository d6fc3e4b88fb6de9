"""Build the folder of the browser page from an exported model."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cxr_data.command_line.terminal import say
from cxr_data.files import whole_folder, write_text
from cxr_data.folders import refuse_other_files
from cxr_data.models.decisions import in_use
from cxr_data.models.header import EXPORT_KEY, KEY, Header
from cxr_data.models.licences import is_loud, trail
from cxr_deploy.export import onnx_file
from cxr_deploy.predict import unusual
from cxr_deploy.predict.classifier import Classifier
from cxr_deploy.web.runtime_files import VERSION, runtime_files

PAGE = ("index.html", "style.css", "icon.svg", "app.js", "bar.js", "files.js", "pixels.js", "dicom.js")
MODEL, FACTS, RUNTIME = "model.onnx", "model.json", "ort"


def build(folder: Path, exported: Path, name: str, ort_web: str = "") -> None:
    """Write the page, whole or not at all; an earlier one is replaced.

    Args:
        folder: New or empty folder, or that of an earlier page.
        exported: ONNX file written by ``export-model``.
        name: What the page calls the model.
        ort_web: See :func:`cxr_deploy.web.runtime_files.runtime_files`.

    Raises:
        BadInput: The folder holds other files, the ONNX file is of another origin, or onnxruntime-web is not to be
            had.
    """
    check_folder(folder)
    graph, header, about = onnx_file.load(exported)
    earlier = _named(folder)
    if earlier not in (None, name):
        say(f"{folder}: the page of {earlier} is replaced")
    runtime = runtime_files(ort_web)
    with whole_folder(folder) as beside:
        for part in PAGE:
            write_text(beside / part, files("cxr_deploy.web").joinpath(part).read_text("utf-8"))
        # The page needs neither the header's paths nor its config: what is served says no more than it must.
        kept = [entry for entry in graph.metadata_props if entry.key not in (KEY, EXPORT_KEY)]
        del graph.metadata_props[:]
        graph.metadata_props.extend(kept)
        onnx_file.save(graph, beside / MODEL)
        shown = facts(header, about) | {"name": name, "bytes": (beside / MODEL).stat().st_size}
        write_text(beside / FACTS, json.dumps(shown, allow_nan=False) + "\n")
        (beside / RUNTIME).mkdir()
        for part, content in runtime.items():
            (beside / RUNTIME / part).write_bytes(content)


def _named(folder: Path) -> str | None:
    """What the page in a folder calls its model; None where there is none."""
    try:
        return str(json.loads((folder / FACTS).read_text("utf-8"))["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def facts(header: Header, about: Mapping[str, Any]) -> dict[str, object]:
    """What the page must know beside the graph, as JSON types.

    Args:
        header: Header of the weights.
        about: What the exported file says of its own making.
    """
    precision = about["precision"]
    classifier = Classifier(header, lambda pixels: {}, Path(MODEL), precision)
    return {
        "architecture": header.architecture,
        "precision": precision,
        "sha256": (about.get("source") or {}).get("sha256", ""),
        **licence_lines(header),
        "ort": VERSION,
        "task": header.task,
        "labels": list(header.labels),
        "thresholds": in_use(header.thresholds, len(header.labels)) if header.thresholds else [],
        "size": header.input.size,
        "stored": classifier.stored_size,
        "aspect": classifier.mapping["aspect"],
        "window": classifier.mapping["window"],
        "rules": {
            "contrast": unusual.LEAST_CONTRAST,
            "unlike": unusual.UNLIKE,
            "average": unusual.AVERAGE.ravel().tolist(),
        },
    }


def licence_lines(header: Header) -> dict[str, object]:
    """What a page says of licences: "licences", lines on the model and its ancestors; "forbidden", "" or what is."""
    lines = trail(header.licence, header.ancestors)
    return {
        "licences": [line for line in lines if not is_loud(line)],
        "forbidden": next(filter(is_loud, lines), ""),
    }


def check_folder(folder: Path) -> None:
    """See that a page may be written: nothing there, or an earlier page; see `refuse_other_files`."""
    refuse_other_files(folder, (*PAGE, MODEL, FACTS, RUNTIME), earlier="an earlier page", option="--web")
