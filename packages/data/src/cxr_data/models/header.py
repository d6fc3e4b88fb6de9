"""The JSON header of model files (safetensors and ONNX), read without torch."""

import dataclasses
import datetime
import functools
import json
import math
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr_data.command_line.command import config_dict
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_data.models.header_checks import check_header
from cxr_data.models.hub import PREFIX, hub_source
from cxr_data.models.onnx_metadata import onnx_metadata

SCHEMA = 1
KEY = "cxr"
"""Key of the header in the metadata of a file."""
EXPORT_KEY = "cxr_export"
"""Key of the JSON that an ONNX file says of its own making."""
TRAINING_IMAGES = "cxr.training_images"
"""Beginning of the names of the tensors, beside the weights, with the keys of the images that were trained on; then
comes the edge at which these were stored."""
LIKENESS_WORDS = 16
"""Numbers of 64 bits of a key of what an image looks like."""
LIKENESS = f"{TRAINING_IMAGES}.likeness.{LIKENESS_WORDS}"
"""Name of the tensor (N, 16) with these keys, for images of any edge."""


@dataclass(frozen=True)
class Input:
    """What a network takes: gray images, normalised as (pixel / 255 - mean) / std.

    Attributes:
        size: Edge of the square input, pixels.
        mean: Mean that is subtracted, of pixels in [0, 1]: one number, or one for each channel.
        std: Standard deviation that is divided by, likewise.
        channels: Input channels of the first layer.
        pixels: How files became pixels (the cohort's ``pixel_mapping``: window, aspect).
    """

    size: int
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    channels: int = 1
    pixels: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """Everything a weights file says of itself.

    Attributes:
        kind: "backbone" (no classifier) or "model".
        architecture: Name for `cxr_common.models.zoo.build`.
        input: What the network takes.
        task: "multilabel", "multiclass", or None for a backbone.
        labels: Label names in the order of the logits.
        thresholds: Decision threshold of each label, fitted on validation data; None for one that could not be fitted
            (0.5 decides), or altogether.
        calibration: What `cxr_data.models.decisions.probabilities` takes: ``{"temperature": T}``, or ``{"scale": [...],
            "shift": [...]}`` of each label, or nothing; fitted on validation data.
        config: The config of the run that wrote the file, as :func:`portable` leaves it.
        parents: Files it came from: ``{"role", "path", "sha256"}``, and ``normalisation`` where a file beside says it.
        licence: Licence of the file itself, such as "CC-BY-4.0"; None where nobody has said it.
        ancestors: Every file that it comes from at any distance: ``{"name", "sha256", "licence", "source"}``.
        cohort: ``Cohort.describe()`` of the training data.
        seed: Seed of the run.
        metrics: Validation figures of the saved weights.
        bits: None for a network in float32; ``{"activations": 8, "weights": 7 or 8}`` for one in 8 bits
            (``cxr_common.models.eight_bits``), whose ranges and scales lie beside its weights.
        versions: Versions of the packages that matter.
        git: Revision of the source tree, with "+dirty" when it was changed; None outside a checkout.
        schema: Version of this header.
    """

    kind: str
    architecture: str
    input: Input
    task: str | None = None
    labels: tuple[str, ...] = ()
    thresholds: tuple[float | None, ...] | None = None
    calibration: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    parents: tuple[dict[str, str], ...] = ()
    licence: str | None = None
    ancestors: tuple[dict[str, str], ...] = ()
    cohort: dict[str, Any] | None = None
    seed: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, int] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git: str | None = None
    schema: int = SCHEMA


_FOLDERS = re.compile(r"(?:^|(?<=\+))[^+#]*/(?<!@\d/)(?<!@\d\d/)(?=[^+#])")
"""The folders of each of several paths joined by +; the slash of a fold ("COHORT@2/5") is none of a path."""


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as weights files carry it: without paths of one machine, which do not change the weights.

    Args:
        config: Config as plain JSON types; of paths in "data", "teacher" and "start" the last part stays.
    """

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(item) for item in value]
        of_a_hub = isinstance(value, str) and value.startswith(("hf:", "timm:"))
        return _FOLDERS.sub("", value) if isinstance(value, str) and not of_a_hub else value

    return {key: name(value) if key in ("data", "teacher", "start") else value for key, value in config.items()}


_PLACES: dict[str, Path] = {}
"""SHA-256 of each file that :func:`parent` has described in this process -> where it lies, which no header says."""


def places_of(parents: Iterable[Mapping[str, str]]) -> list[Path]:
    """Where those of a header's parents lie that :func:`parent` has described in this process."""
    return [_PLACES[entry["sha256"]] for entry in parents if entry["sha256"] in _PLACES]


def identities(parents: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Role of each parent -> what makes it this one: its SHA-256, and the normalisation that a file beside it says."""
    return {entry["role"]: " ".join(filter(None, (entry["sha256"], entry.get("normalisation")))) for entry in parents}


def parent(role: str, path: str | Path) -> dict[str, str]:
    """Provenance entry of a file this one is made from.

    Raises:
        BadInput: It is not there, or cannot be read.
    """
    place = Path(path)
    # Every run's file has the same name: its folder tells which it is.
    ours = place.name in ("model.safetensors", "backbone.safetensors")
    try:
        digest = sha256(path)
        _PLACES[digest] = place.absolute()
        repository = hub_source(place).partition("@")[0].removeprefix(PREFIX)  # its folder is called by a hash
        shown = f"{repository}/{place.name}" if repository else "/".join(place.parts[-1 - ours :])
        return {"role": role, "path": shown, "sha256": digest}
    except OSError as error:
        raise BadInput("a file to begin with", error.strerror or str(error), where=path) from error


@functools.cache
def provenance() -> dict[str, Any]:
    """``{"versions": ..., "git": ...}`` of this process, for a header."""
    import importlib.metadata  # a fifth of the time of --help

    versions = {"python": platform.python_version()}
    for name in ("torch", "timm", "lightly", "accelerate", "numpy", "cxr-data", "cxr-common", "cxr-ssl", "cxr-distill"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "git": _git_revision(Path(__file__).parent)}


def made_now(config: Any) -> dict[str, Any]:
    """What a report says of its own making: `provenance` of this process, the time, and the config."""
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {**provenance(), "created": created, "config": config_dict(config)}


def _git_revision(folder: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed wheel may lie inside somebody else's checkout: only tracked source counts.
        if not git("ls-files", Path(__file__).name):
            return None
        dirty = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def header_text(header: Header) -> str:
    """A header as the JSON that files carry under :data:`KEY`."""
    return json.dumps(dataclasses.asdict(header), allow_nan=False, sort_keys=True)


def describe(path: str | Path) -> Header:
    """Read a file's header without reading its weights (and without importing torch).

    Raises:
        BadInput: Not a complete safetensors file, or not one of ours.
    """
    texts = metadata(Path(path))
    if KEY not in texts:
        raise BadInput(
            "a file written by this toolkit",
            "a safetensors file without our header",
            where=path,
            do="foreign weights enter as a start: --start FILE of ssl-pretrain or finetune",
        )
    return parse_header(texts[KEY], path)


def model_header(path: str | Path) -> Header:
    """The header of a model file, safetensors or ONNX.

    Raises:
        BadInput: As `describe` and `describe_onnx`.
    """
    return describe_onnx(path)[0] if Path(path).suffix == ".onnx" else describe(path)


def is_ours(path: str | Path) -> bool:
    """Whether a file is one of this toolkit, not weights of others.

    Raises:
        BadInput: A .safetensors file that is missing or damaged.
    """
    path = Path(path)
    return path.suffix == ".safetensors" and KEY in metadata(path)


def parse_header(text: str, path: str | Path) -> Header:
    """The header that :func:`header_text` wrote.

    Raises:
        BadInput: No header, an incomplete one, one of a newer schema, or numbers that no network can be used with.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no table")
    except (ValueError, RecursionError) as error:
        raise BadInput("a header in JSON", f"something else ({error})", where=path) from error
    schema = values.get("schema", 0)
    if not isinstance(schema, int) or isinstance(schema, bool) or not 0 <= schema <= SCHEMA:
        found = f"schema {schema}"
        raise BadInput(f"a header of schema {SCHEMA} or older", found, where=path, do="update the cxr packages")
    try:
        read: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values["input"].items()
        }
        values["input"] = Input(**read)
        for name in ("labels", "parents", "ancestors", "thresholds"):
            listed = values["thresholds"] if name == "thresholds" else values.get(name, [])
            if not isinstance(listed, list) and (name != "thresholds" or listed is not None):
                raise TypeError(f"{name} is no list")
            values[name] = None if listed is None else tuple(listed)
        header = Header(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput("a complete header", f"one that lacks or adds fields ({error})", where=path) from error
    check_header(header, path)
    return header


def metadata(path: Path) -> dict[str, str]:
    """The safetensors metadata of any such file, its length checked against its own table.

    Raises:
        BadInput: Missing, truncated, a pickle, or something else altogether.
    """
    do = "give a whole .safetensors file, as this toolkit and others write it"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(9)
            length = int.from_bytes(start[:8], "little")
            # The ninth byte opens the table; only where it does not can the first ones be a pickle's.
            if start[8:] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
                raise BadInput("a safetensors file", "a pickle (PyTorch checkpoint)", where=path, do=do)
            if start == b"version h":
                pull = "fetch its content: git lfs pull, or download the file itself"
                raise BadInput("a safetensors file", "a pointer of Git LFS, without content", where=path, do=pull)
            if len(start) < 9 or length > min(size - 8, 100_000_000):
                raise BadInput(
                    "a safetensors file", f"{size} bytes that are none, or a truncated one", where=path, do=do
                )
            file.seek(8)
            table = json.loads(file.read(length))
            texts = table.pop("__metadata__", {})
            end = _end(table)
    except FileNotFoundError as error:
        raise BadInput("a file", "nothing there", where=path, do=do) from error
    except OSError as error:
        raise BadInput("a readable file", error.strerror or str(error), where=path, do=do) from error
    # No JSON, or a table of another shape.
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise BadInput("a safetensors file", "something else", where=path, do=do) from error
    if size != 8 + length + end:
        raise BadInput(
            f"{8 + length + end} bytes",
            f"{size}: the file is truncated or damaged",
            where=path,
            do="copy it again, or rerun the command that wrote it",
        )
    return texts


def _end(table: Mapping[str, Any]) -> int:
    """Bytes of the numbers that the table of a safetensors file lists.

    Raises:
        ValueError, LookupError, TypeError: Tensors that overlap, leave a gap, or are not as long as their shape says.
    """
    end = 0
    for name, entry in sorted(table.items(), key=lambda entry: entry[1]["data_offsets"]):
        if name.startswith(TRAINING_IMAGES) and not (
            entry["dtype"] == "I64"
            and name.rpartition(".")[2].isdigit()
            and (name != LIKENESS or entry["shape"][1:] == [LIKENESS_WORDS])
        ):
            raise ValueError("no keys of images of a size")
        start, stop = entry["data_offsets"]
        bits = 8 if entry["dtype"] == "BOOL" else int(re.findall(r"\d+", entry["dtype"])[0])  # BF16, F8_E4M3
        if start != end or min(entry["shape"], default=0) < 0 or bits * math.prod(entry["shape"]) != 8 * (stop - start):
            raise ValueError("tensors that overlap, leave a gap, or are not as long as their shape says")
        end = stop
    return end


def made_from(path: str | Path) -> str | None:
    """SHA-256 of the weights that a file of ``export-model`` was made from; None where it does not say."""
    return (describe_onnx(path)[1].get("source") or {}).get("sha256")


def weights_of_onnx(path: str | Path) -> Path | None:
    """The weights that a file of ``export-model`` was made from, where they lie beside it or in the folder above."""
    digest = made_from(path)
    folder = Path(path).absolute().parent
    places = (folder / "model.safetensors", folder.parent / "model.safetensors")
    return next((place for place in places if place.is_file() and sha256(place) == digest), None)


def describe_onnx(path: str | Path) -> tuple[Header, dict[str, Any]]:
    """Read what an ONNX file of ``export-model`` says of itself, without loading its graph.

    Returns:
        Header of the weights, and what the file says of its own making: "precision", "source", "outputs", "check".

    Raises:
        BadInput: Missing, no ONNX file, a damaged one, or one of another origin.
    """
    do = "give a file written by export-model"
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadInput("an ONNX file", error.strerror or str(error), where=path, do=do) from error
    try:
        texts, producer = onnx_metadata(memoryview(data))
    except (IndexError, ValueError) as error:
        raise BadInput("an ONNX file", "something else, or a damaged one", where=path, do=do) from error
    if KEY not in texts or EXPORT_KEY not in texts:
        made_by = f" ({producer[:40]})" if producer else ""
        raise BadInput(
            "an ONNX file written by export-model",
            f"one of another origin{made_by}, without our header",
            where=path,
            do=do,
        )
    header = parse_header(texts[KEY], path)
    about: Any = None
    try:
        about = json.loads(texts[EXPORT_KEY])
        whole = isinstance(about["precision"], str) and isinstance(about.get("source") or {}, dict)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise BadInput("what export-model says of the file", "something else", where=path, do=do)
    return header, about
