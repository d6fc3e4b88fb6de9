"""Checks that the header of a weights file is complete and consistent before the file is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.errors import BadInput
from cxr_data.images.header import ASPECTS, WINDOWS

if TYPE_CHECKING:
    from cxr_data.models.header import Header

_FILES = {"parents": ("role", "path", "sha256"), "ancestors": ("name", "sha256", "licence", "source")}
"""What is said of each file that a network comes from."""


def check_header(header: "Header", path: str | Path) -> None:
    """Refuse a header whose values no network can be used with, such as a standard deviation of 0.

    Raises:
        BadInput: With the first such value.
    """

    def demand(good: bool, expected: str, found: object) -> None:
        if not good:
            do = "it was changed or damaged: copy it again, or rerun the command that wrote it"
            raise BadInput(f"a header with {expected}", f"{found!r:.80}", where=path, do=do)

    given, labels, thresholds = header.input, header.labels, header.thresholds or ()
    calibration: Any = {} if header.calibration is None else header.calibration
    for name in ("config", "metrics", "versions"):
        demand(isinstance(getattr(header, name), dict), f"a table as {name}", getattr(header, name))
    for name in ("cohort", "bits"):
        demand(isinstance(getattr(header, name) or {}, dict), f"a table as {name}", getattr(header, name))
    demand(
        not header.bits or set(header.bits) == {"activations", "weights"},
        "activations and weights as bits",
        header.bits,
    )
    for name, keys in _FILES.items():
        entries = getattr(header, name)
        whole = all(
            isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries
        )
        demand(whole, f"{', '.join(keys)} of each file as {name}", entries)
    cohort = header.cohort or {}
    texts = {"licence": header.licence, "git": header.git, **{key: cohort.get(key) for key in ("name", "source")}}
    for name, text in texts.items():
        demand(text is None or isinstance(text, str), f"text as {name}", text)
    demand(header.seed is None or isinstance(header.seed, int), "a number as seed", header.seed)
    demand(
        _is_count(cohort.get("pixel_size", 1)), "the size of the cohort's images in pixels", cohort.get("pixel_size")
    )
    demand(header.kind in ("backbone", "model"), "the kind backbone or model", header.kind)
    demand(_is_text(header.architecture), "the name of an architecture", header.architecture)
    tasks = ("multilabel", "multiclass", *(() if labels else (None,)))
    demand(header.task in tasks, "the task multilabel or multiclass", header.task)
    demand(all(map(_is_text, labels)) and len(set(labels)) == len(labels), "different names as labels", labels)
    demand(_is_count(given.size), "the size of the input in pixels", given.size)
    demand(_is_count(given.channels), "the number of channels of the input", given.channels)
    demand(_within(_listed(given.mean), -1.5, 1.5), "a mean of pixels in [0, 1]", given.mean)
    demand(_within(_listed(given.std), 1e-6, 1.5), "a standard deviation above 0 of pixels in [0, 1]", given.std)
    demand(isinstance(given.pixels, dict), "a table as pixels", given.pixels)
    for name, known in (("aspect", ASPECTS), ("window", WINDOWS)):
        demand(given.pixels.get(name, known[0]) in known, f"a known {name}", given.pixels.get(name))
    fitting = len(thresholds) in (0, len(labels)) and _within(
        [threshold for threshold in thresholds if threshold is not None], 0, 1
    )
    demand(fitting, "one threshold in [0, 1] for each label", thresholds)
    demand(_is_calibration(calibration, len(labels)), "a temperature, or a scale and shift for each label", calibration)


def _is_calibration(given: Any, labels: int) -> bool:
    if not isinstance(given, dict) or set(given) not in (set(), {"temperature"}, {"scale", "shift"}):
        return False
    scale, shift = given.get("scale", [1] * labels), given.get("shift", [0] * labels)
    if not (isinstance(scale, list) and isinstance(shift, list) and len(scale) == len(shift) == labels):
        return False
    return _within([given.get("temperature", 1), *scale], 1e-3, 1e3) and _within(shift, -1e6, 1e6)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number > 0


def _within(values: Sequence[Any], least: float, most: float) -> bool:
    """Whether all are numbers in [least, most]; NaN is in no range."""
    return all(
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most for value in values
    )
