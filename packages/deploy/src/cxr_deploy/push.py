"""``push``: write a model as a folder laid out like a Hub repository, and upload it."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cxr_data.command_line.suggestions import typed
from cxr_data.command_line.terminal import say
from cxr_data.errors import BadInput
from cxr_data.file_names import file_names
from cxr_data.files import sha256, whole_folder, write_json, write_text
from cxr_data.markdown import plain
from cxr_data.models import hub
from cxr_data.models.header import Header, describe, made_from
from cxr_data.models.licences import card_fields, restricted, trail
from cxr_data.models.model_files import names
from cxr_deploy.config import PushConfig
from cxr_deploy.extras import installed

ONNX = ("model.onnx", "model.int8.onnx")
_LICENCES = "## Licences"
"""Heading of a card's licences."""


def push(config: PushConfig) -> Path:
    """Write a model's repository and, where one is named, upload it.

    Raises:
        BadInput: No model of ours, a place that cannot be written to, or a Hub that does not take it.
    """
    if len(config.models) != 1:
        raise BadInput("one model", f"{len(config.models)}", do="for example: push runs/quickstart/resnet18")
    file = hub.weights(config.models[0])
    header = describe(file)
    if installed("export"):  # a header says nothing of damaged weights
        from cxr_common.checkpoint import load

        load(file)
    digest = sha256(file)
    folder = Path(config.out) if config.out else file.parent / "hub"
    card, entry = _reported(file, digest)
    licence = config.licence or header.licence
    with whole_folder(folder) as new:
        shutil.copyfile(file, new / ("model.safetensors" if header.kind == "model" else "backbone.safetensors"))
        for name in ONNX:
            exported = file.parent / "export" / name
            if exported.is_file() and made_from(exported) == digest:
                shutil.copyfile(exported, new / name)
            elif exported.is_file():
                say(f"note: {exported} was made of another model and is left out: run export-model again")
        write_json(new / "config.json", configuration(header) | {"licence": licence})
        if entry is not None:
            write_json(new / "metrics.json", entry)
        card = card or plain_card(header, names([file])[0], config.repo or "OWNER/NAME")
        write_text(new / "README.md", with_licence(card, header, licence))
    say(f"wrote {folder}: {', '.join(sorted(one.name for one in folder.iterdir()))}")
    for line in _licences(licence, header):
        say(line)
    if config.repo:
        message = f"{header.architecture}, SHA-256 {digest[:16]}"
        say(f"uploaded: {hub.upload(folder, config.repo, private=config.private, message=message)}")
    else:
        options = {"out": config.out or None, "licence": config.licence, "private": None if config.private else "false"}
        options["repo"] = "OWNER/NAME"
        say(f"upload it:  {typed('push', config.models[0], **options)}")
    if header.kind == "model":
        place = f"hf:{config.repo}" if config.repo else str(folder)
        say(f"new images:  {typed('predict', place, 'IMAGES')}")
    return folder


def _licences(licence: str | None, header: Header) -> list[str]:
    """One line for the licence that the card says and one for each ancestor, with what they forbid."""
    lines = trail(licence, header.ancestors)
    if licence and not restricted(licence) and any(restricted(one["licence"]) for one in header.ancestors):
        lines.append(f"WARNING: {licence} allows more than the licences it comes from")
    return lines


def configuration(header: Header) -> dict[str, Any]:
    """What config.json says: the header without what only concerns the training."""
    about = dataclasses.asdict(header)
    kept = ("kind", "architecture", "input", "task", "labels", "thresholds", "calibration", "licence", "ancestors")
    return {"library_name": "cxr", "schema": header.schema, **{name: about[name] for name in kept}}


def plain_card(header: Header, name: str, repository: str) -> str:
    """A model card from the header alone, for a model without a report."""
    answers = f"answers with probabilities for {plain(', '.join(header.labels))}" if header.labels else "gives features"
    matter = {
        "library_name": "cxr-common",
        "pipeline_tag": "image-classification" if header.labels else "image-feature-extraction",
        "tags": ["chest-x-ray", "radiology", "research-only", header.architecture],
    }
    trained = (header.cohort or {}).get("name") or "unknown"
    lines = [
        f"# {plain(name)}",
        "**Research use only. Not a medical device; not for diagnosis, triage or any decision about a patient.**",
        f"A {plain(header.architecture)} that reads one chest radiograph ({header.input.size} px, gray) and {answers}. "
        f"Trained on: {plain(trained)}. It was not evaluated: `evaluate` writes a card with figures.",
        f'```python\nimport cxr_deploy\n\nclassify = cxr_deploy.load("hf:{repository}")\n```' if header.labels else "",
        _LICENCES,
    ]
    return _joined(matter, "\n" + "\n\n".join(filter(None, lines)) + "\n")


def with_licence(card: str, header: Header, licence: str | None) -> str:
    """A card that says this licence in front matter and text, and the Hub repositories that the model comes from."""
    _, matter, body = card.split("---\n", 2)
    values: dict[str, Any] = {**yaml.safe_load(matter)}
    for name in ("license", "license_name"):
        values.pop(name, None)
    sources = [one["source"] for one in header.ancestors if one["source"].startswith(hub.PREFIX)]
    base = [source.removeprefix(hub.PREFIX).partition("@")[0] for source in sources]
    if base:
        values["base_model"] = list(dict.fromkeys(base))
    before, heading, after = body.partition(_LICENCES)
    if heading:  # its lines, up to the next heading
        rest = after[after.find("\n## ") :] if "\n## " in after else "\n"
        listed = "\n".join(f"- {plain(line)}" for line in _licences(licence, header))
        body = f"{before}{heading}\n\n{listed}\n{rest}"
    return _joined({**card_fields(licence), **values}, body)


def _joined(matter: Mapping[str, Any], body: str) -> str:
    return "---\n" + yaml.safe_dump(dict(matter), sort_keys=False, allow_unicode=True) + "---\n" + body


def _reported(file: Path, digest: str) -> tuple[str, dict[str, Any] | None]:
    """The newest report of the model's run on this file: its model card, and what it says; "" and None without one."""
    for metrics in sorted(file.parent.parent.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)[::-1]:
        document = json.loads(metrics.read_text("utf-8"))
        models = document.get("models", {})
        for name, model in models.items():
            if model["file"]["sha256"] == digest:
                kept = ("task", "labels", "cohort", "split", "images", "patients", "intervals")
                entry = {key: document[key] for key in kept if key in document}
                card = metrics.parent / "model_cards" / file_names(models)[name] / "README.md"
                written = card.read_text("utf-8") if card.is_file() else ""
                return written, {**entry, "name": name, "model": model}
    return "", None
