"""DICOM radiographs: stored values → what a viewer shows, and the few header fields a cohort uses.

The order is that of the grayscale pipeline of DICOM PS3.4, N.2: modality LUT or rescale, VOI LUT or window,
then MONOCHROME1 is inverted so that air is dark in every cohort.
"""

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.images.dicom_file import dicom_header, identifier_of, open_dicom, text_of
from cxr_data.images.dicom_pixels import Stored, stored_values
from cxr_data.images.header import BrokenImage
from cxr_data.images.lookup_tables import depth, look_up, palette, table_of
from cxr_data.spelling import patient_key

if TYPE_CHECKING:
    from pydicom import Dataset

LEAST_SHOWN = 0.005
"""Least share of an image's values that its own window must show as shades between black and white."""
LEAST_SHADES = 0.08
"""Least part of black to white that it must spread them over: 12 bits in a window of 16 fill 0.06."""
_A_YEAR = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}


def decode_dicom(data: bytes, window: str) -> NDArray[np.float32]:
    """Decode one radiograph as it is meant to be seen.

    Args:
        data: The whole DICOM file.
        window: "voi": the VOI LUT or window of the file; without one, the full range for up to 8 bits and
            the image's own minimum to maximum beyond. "full" and "percentile": the full stored range.

    Returns:
        (H, W) display values in [0, 1], air dark. Pixels that the file marks as padding are 0.

    Raises:
        BrokenImage: Not one gray or colour image, damaged, or a header that its pixels contradict. The reason never
            quotes pydicom, whose messages hold text of the header.
    """
    dataset, syntax = open_dicom(data)
    if not len(dataset):
        if data[128:132] != b"DICM":
            raise BrokenImage("not an image of a known kind")
        raise BrokenImage("truncated DICOM: it ends within its header or compressed pixels")
    with _damaged("its pixels cannot be decoded"):
        image = stored_values(dataset, syntax)
    # What is no number afterwards is refused.
    with _damaged("its header says nothing usable on how its pixels are shown"), np.errstate(all="ignore"):
        _take_from_groups(dataset)
        return _displayed(dataset, image, window)


@contextmanager
def _damaged(reason: str) -> Iterator[None]:
    try:
        yield
    except BrokenImage:
        raise
    except Exception as error:  # a damaged data set can fail anywhere in pydicom, with any exception
        raise BrokenImage(f"damaged DICOM: {reason}") from error


def dicom_facts(path: Path, salt: bytes) -> dict[str, Any]:
    """Patient and projection from a DICOM header, without reading the pixels.

    Args:
        path: Any file; its content decides whether it is DICOM.
        salt: Secret of this machine, from :func:`patient_salt`.

    Returns:
        ``patient`` (salted hash of number and issuer, or None), ``number`` (likewise, of the number alone), ``study``
        (likewise), ``projection``, ``sex``, ``age`` in years; None where not given or not DICOM.
    """
    tags = ["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "ViewPosition", "PatientSex", "PatientAge"]
    dataset = dicom_header(path, tags)
    if dataset is None:
        return dict.fromkeys(("patient", "number", "study", "projection", "sex", "age"))
    # Tables of patients are read likewise: another spelling is no other patient.
    issuer, number = (patient_key(identifier_of(dataset, name)) for name in ("IssuerOfPatientID", "PatientID"))

    def hashed(issuer: str, number: str) -> str | None:
        whole = f"{issuer}\0{number}".encode("utf-8", "backslashreplace")
        return "p" + hashlib.blake2b(whole, key=salt, digest_size=10).hexdigest() if number else None

    return {
        "patient": hashed(issuer, number),
        "number": hashed("", number),
        "study": hashed("study", text_of(dataset, "StudyInstanceUID").strip("\0 ")),
        "projection": text_of(dataset, "ViewPosition").upper() or None,
        "sex": text_of(dataset, "PatientSex").upper() or None,
        "age": age_in_years(text_of(dataset, "PatientAge")),
    }


def rows_and_columns(path: str | Path) -> tuple[int, int] | None:
    """Rows and columns a DICOM header claims; None where it does not."""
    dataset = dicom_header(path, ["Rows", "Columns"])
    try:
        return None if dataset is None else (int(dataset.Rows), int(dataset.Columns))
    except Exception:  # absent, or of a VR that provokes anything; decoding says what is wrong
        return None


def age_in_years(text: object) -> float | None:
    """Age from a DICOM age string ("045Y", "007M", "010D"), "45 years", or a plain number of years.

    Returns:
        Years, or None where the text is no age or outside 0 to 120.
    """
    value = str(text if text is not None else "").strip().upper().replace(",", ".")
    match = re.fullmatch(r"([\d.]+(?:E[+-]?\d+)?)\s*(Y|YR|M|MO|MONTH|W|WEEK|D|DAY|YEAR)?S?(?:\s*OLD)?\.?", value)
    try:
        years = float(match[1]) / _A_YEAR[(match[2] or "Y")[0]] if match else None
    except ValueError:
        return None
    return years if years is not None and 0 <= years <= 120 else None


def patient_salt(cache: Path) -> bytes:
    """The secret that patient numbers are hashed with: made once, private to this user.

    Args:
        cache: Folder it is kept in, as ``patient-salt``.

    Returns:
        32 bytes.
    """
    path = cache / "patient-salt"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=cache)  # mkstemp: readable by this user only
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
            if not path.exists():
                os.replace(beside, path)
        finally:
            Path(beside).unlink(missing_ok=True)
    return path.read_bytes()


def _take_from_groups(dataset: "Dataset") -> None:
    """Put what the functional groups of an enhanced image say of its one frame where other images say it."""
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or ())[:1]:
            for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (group.get(macro) or ())[:1]:
                    dataset.update(item)


def _displayed(dataset: "Dataset", image: Stored, window: str) -> NDArray[np.float32]:
    if image.photometric == "RGB":
        return _luma(image.values / (2.0**image.bits - 1), stretch=window == "voi" and image.bits > 8)
    if image.photometric == "PALETTE COLOR":
        colours, bits = palette(dataset, image.values)
        return _luma(colours / (2.0**bits - 1), stretch=False)

    if image.photometric == "MONOCHROME2" and text_of(dataset, "PresentationLUTShape").upper() == "INVERSE":
        raise BrokenImage(
            "a DICOM file that contradicts itself on whether air is dark (MONOCHROME2, PresentationLUTShape INVERSE)"
        )
    if dataset.get("PresentationLUTSequence"):
        raise BrokenImage("a DICOM image with a lookup table for its presentation, which is not read")
    values, low, high = _modality(dataset, image)
    if not np.isfinite(values).all():
        raise BrokenImage("a DICOM image with values that are not numbers")
    valid = values if image.padding is None else values[~image.padding]
    shown = _voi(dataset, values, valid) if window == "voi" else None
    if shown is None:
        if image.bits == 0 or (window == "voi" and image.bits > 8):
            low, high = float(valid.min()), float(valid.max())
        shown = (values - low) / max(high - low, 1e-12)
    shown = np.clip(shown, 0.0, 1.0)
    if image.photometric == "MONOCHROME1":
        shown = 1.0 - shown
    if image.padding is not None:
        shown[image.padding] = 0.0
    return shown.astype(np.float32, copy=False)


def _luma(colours: NDArray[Any], *, stretch: bool) -> NDArray[np.float32]:
    gray = cv2.cvtColor(colours.astype(np.float32), cv2.COLOR_RGB2GRAY).astype(np.float32, copy=False)
    low, high = (float(gray.min()), float(gray.max())) if stretch else (0.0, 1.0)
    return np.clip((gray - np.float32(low)) / np.float32(max(high - low, 1e-12)), 0.0, 1.0)


def _modality(dataset: "Dataset", image: Stored) -> tuple[NDArray[np.float32], float, float]:
    """Values after the modality LUT or rescale (PS3.3 C.11.1), and the range that stored values can take there."""
    if dataset.get("ModalityLUTSequence"):
        table = table_of(dataset.ModalityLUTSequence[0])
        values = look_up(table, image.values).astype(np.float32)
        return values, 0.0, 2.0 ** depth(table.bits, int(table.entries.max())) - 1
    slope = float(dataset.get("RescaleSlope") or 1)
    intercept = float(dataset.get("RescaleIntercept") or 0)
    # 24 bits of a float32 hold the values and an intercept near them, not one far away.
    kind = np.float32 if abs(intercept) < 2**20 * abs(slope) else np.float64
    values = image.values.astype(kind) * kind(slope) + kind(intercept)
    half = 2.0 ** (image.bits - 1)
    ends = (-half, half - 1) if image.signed else (0.0, 2 * half - 1)
    low, high = sorted(end * slope + intercept for end in ends)
    return values, low, high


def _voi(dataset: "Dataset", values: NDArray[np.float32], valid: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Display values by the file's first VOI LUT or window (PS3.3 C.11.2.1), 0 to 1 within it; None without one.

    Raises:
        BrokenImage: The table or window shows nothing of the image.
    """
    if dataset.get("VOILUTSequence"):
        table = table_of(dataset.VOILUTSequence[0])
        top = 2.0 ** depth(table.bits, int(table.entries.max())) - 1
        look_up(table, valid)  # padding alone may lie in a table
        return (look_up(table, values) / top).astype(np.float32)
    windows = zip(_numbers(dataset.get("WindowCenter")), _numbers(dataset.get("WindowWidth")), strict=False)
    center, width = next(((c, w) for c, w in windows if w > 0 and np.isfinite([c, w]).all()), (0.0, 0.0))
    if not width:
        return None
    function = text_of(dataset, "VOILUTFunction").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise BrokenImage(f"a DICOM window of a kind that is not read (VOILUTFunction {function[:16]})")
    linear = (center, width) if function in ("SIGMOID", "LINEAR_EXACT") else (center - 0.5, max(width - 1, 1e-6))
    ramp = (valid - linear[0]) / linear[1] + 0.5
    reach = 0.75 if function == "SIGMOID" else 0.5  # a sigmoid has shades outside its width
    inside = np.abs(ramp - 0.5) < reach
    if valid.min() < valid.max() and (inside.mean() < LEAST_SHOWN or np.ptp(np.clip(ramp, 0, 1)) < LEAST_SHADES):
        raise BrokenImage(
            f"a DICOM window (center {center:g}, width {width:g}) that shows next to nothing of its values "
            f"({valid.min():g} to {valid.max():g})"
        )
    if function == "SIGMOID":
        return (1 / (1 + np.exp(-4 / width * (values - center)))).astype(np.float32)
    return (values - linear[0]) / linear[1] + 0.5


def _numbers(value: Any) -> list[float]:
    """Values of an element as numbers, NaN where one is empty."""
    several = hasattr(value, "__getitem__") and not isinstance(value, str | bytes)
    return [float("nan") if one in (None, "") else float(one) for one in (value if several else [value])]
