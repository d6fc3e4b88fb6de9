"""Licences of weights and of all their ancestors, and the places where they are shown."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cxr_data.errors import BadInput
from cxr_data.files import read_json
from cxr_data.models import header as headers
from cxr_data.models.hub import hub_source

UNKNOWN = "unknown"

_RESTRICTED = re.compile(
    r"(^|[-_ ])nc($|[-_ \d])|non[-_ ]?commercial|research|msrla|academic|not for (clinical|commercial)", re.IGNORECASE
)
_LOUD = "WARNING: NOT FOR COMMERCIAL USE:"
_HEADS = {"Apache Software License": "Apache-2.0", "Apache License": "Apache-2.0", "MIT License": "MIT"}
"""First words of a licence's text -> its name."""


def restricted(licence: str) -> bool:
    """Whether a licence forbids commercial use, by its name: CC-BY-NC, MSRLA, "research only" and the like."""
    return bool(_RESTRICTED.search(licence))


def of_file(path: str | Path) -> dict[str, str]:
    """What is known of a weights file's licence and source.

    A file of ours says it in its header, or in the model card that `push` wrote beside it; a foreign one in its
    metadata ("licence" or "license", "source"), in the model card or configuration beside it, or by the package or Hub
    repository it lies in.

    Returns:
        {"licence", "source"}; the licence `UNKNOWN`, the source "" where nothing says it.
    """
    path = Path(path)
    said: Mapping[str, Any] = {}
    card = front_matter(path.parent / "README.md")
    carded = card.get("license_name") or card.get("license")
    if path.suffix == ".safetensors":
        said = headers.metadata(path)
    if headers.KEY in said or path.suffix == ".onnx":
        own = headers.model_header(path)
        source = hub_source(path) or f"cxr {own.architecture}"
        return {"licence": str(own.licence or carded or UNKNOWN), "source": source}
    licence = said.get("licence") or said.get("license") or carded
    package = _packaged(path.parent)
    licence = licence or _configured(path) or package.get("licence")
    source = said.get("source") or hub_source(path) or package.get("source") or ""
    return {"licence": str(licence or UNKNOWN), "source": str(source)}


def ancestors(parents: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    """Every file that the parents of a file come from, themselves included, each once.

    Args:
        parents: As `cxr_data.models.header.parent` returns them, described in this process.

    Returns:
        {"name", "sha256", "licence", "source"} of each.
    """
    licences: dict[str, dict[str, str]] = {}
    for entry in parents:
        for path in headers.places_of([entry]):
            licences[entry["sha256"]] = {"name": entry["path"], "sha256": entry["sha256"], **of_file(path)}
            if path.suffix == ".onnx" or headers.is_ours(path):
                licences |= {entry["sha256"]: dict(entry) for entry in headers.model_header(path).ancestors}
    return tuple(licences.values())


def trail(own: str | None, above: Iterable[Mapping[str, str]]) -> list[str]:
    """One line for the licence of a file and one for each ancestor; a restricted one is said loudly.

    Args:
        own: Licence of the file itself, where known.
        above: Its ancestors.
    """
    above = list(above)
    lines = [f"licence: {own or UNKNOWN}"]
    for entry in above:
        source = f" ({entry['source']})" if entry.get("source") else ""
        lines.append(f"made from {entry['name']}{source}: licence {entry['licence']}")
    bound = [entry["name"] for entry in above if restricted(entry["licence"])]
    if bound:
        lines.append(f"{_LOUD} the licence of {', '.join(bound)} forbids it, and binds this file")
    elif own and restricted(own):
        lines.append(f"{_LOUD} its licence forbids it")
    return lines


def is_loud(line: str) -> bool:
    """Whether a line of `trail` is the one that forbids commercial use."""
    return line.startswith(_LOUD)


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the head of a model card; empty where there is none."""
    import yaml

    try:
        text = path.read_text("utf-8")
        parts = text.split("---\n", 2)
        values = yaml.safe_load(parts[1]) if text.startswith("---\n") and len(parts) == 3 else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _configured(path: Path) -> str:
    """The licence in timm's configuration beside a file."""
    values = read_json(path.parent / "config.json")
    about = values.get("pretrained_cfg", values)
    return str(about.get("license") or "") if isinstance(about, dict) else ""


def _packaged(folder: Path) -> dict[str, str]:
    """Licence and source of an installed package that a file of weights comes in."""
    import importlib.metadata  # a fifth of the time of --help

    for place in (folder, folder.parent):
        if "site-packages" not in place.parts:
            continue
        try:
            package = importlib.metadata.distribution(place.name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
        about, text = package.metadata, package.read_text("LICENSE") or ""
        named = [about[name] for name in ("License-Expression", "License") if name in about]
        classified = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or [] if "License" in text]
        heads = [licence for head, licence in _HEADS.items() if text.lstrip().startswith(head)]
        fields = [*named, *classified, *heads]
        said = next((text.splitlines()[0] for text in fields if text and text != "UNKNOWN"), "")
        return {"licence": said, "source": f"{about['Name']} {about['Version']}"}
    return {}


def refuse_empty(licence: str | None) -> None:
    """Refuse a licence without a name.

    Raises:
        BadInput: It is empty.
    """
    if licence is not None and not licence.strip():
        raise BadInput("the name of a licence, such as CC-BY-4.0, or null", repr(licence), where="--licence")


_HUB_IDS = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-permissive-2.0
    epl-2.0 etalab-2.0 gemma gpl gpl-2.0 gpl-3.0 agpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc llama2 llama3 ms-pl mpl-2.0
    odc-by odbl osl-3.0 unlicense zlib wtfpl artistic-2.0 unknown other""".split()  # noqa: SIM905 - shorter so
)
"""Licences that a model card of the Hugging Face Hub names by an identifier."""


def card_fields(licence: str | None) -> dict[str, str]:
    """The fields of a model card's front matter that say a licence, as the Hugging Face Hub takes them."""
    name = (licence or UNKNOWN).strip()
    identifier = re.sub(r"\s+", "-", name.lower())
    if identifier in _HUB_IDS:
        return {"license": identifier}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", identifier).strip("-")}
