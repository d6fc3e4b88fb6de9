"""DICOM radiographs: stored values → what a viewer shows, and the few header fields a cohort uses.

The order is that of the grayscale pipeline of DICOM PS3.4, N.2: modality LUT or rescale, VOI LUT or window,
then MONOCHROME1 is inverted so that air is dark in every cohort.
"""

import hashlib
import io
import logging
import os
import secrets
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxr_data.images.header import BrokenImage, check_size

if TYPE_CHECKING:
    from pydicom import Dataset


def decode_dicom(data: bytes, window: str) -> NDArray[np.float32]:
    """Decode one radiograph as it is meant to be seen.

    Args:
        data: The whole DICOM file.
        window: "voi": the VOI LUT or window of the file; without one, the full range for up to 8 bits and
            the image's own minimum to maximum beyond. "full" and "percentile": the full stored range.

    Returns:
        (H, W) display values in [0, 1], air dark. Pixels that the file marks as padding are 0.

    Raises:
        BrokenImage: Not one gray or colour image, or it cannot be decoded. The reason never quotes pydicom, whose
            messages hold text of the header.
    """
    from pydicom import dcmread

    _hush_pydicom()
    with _damaged("its header cannot be read"):
        dataset = dcmread(io.BytesIO(data), force=True)
    with _damaged("its pixels cannot be decoded"):
        stored = _stored(dataset)
    # What is no number afterwards is refused.
    with _damaged("its header says nothing usable on how its pixels are shown"), np.errstate(all="ignore"):
        return _displayed(dataset, stored, window)


@contextmanager
def _damaged(reason: str) -> Iterator[None]:
    try:
        yield
    except BrokenImage:
        raise
    except Exception as error:  # a damaged data set can fail anywhere in pydicom, with any exception
        raise BrokenImage(f"damaged DICOM: {reason}") from error


def dicom_facts(path: Path, salt: bytes) -> dict[str, Any]:
    """Patient and view from a DICOM header, without reading the pixels.

    Args:
        path: DICOM file.
        salt: Secret of this machine, from :func:`patient_salt`.

    Returns:
        ``patient`` (salted hash, or None), ``view``, ``sex``, ``age`` in years; None where not given.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    _hush_pydicom()
    tags = ["PatientID", "IssuerOfPatientID", "ViewPosition", "PatientSex", "PatientAge"]
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError, KeyError):
        return {"patient": None, "view": None, "sex": None, "age": None}  # decoding will say what is wrong
    identity = str(dataset.get("PatientID") or "").strip()
    if identity:
        whole = f"{dataset.get('IssuerOfPatientID') or ''}\0{identity}".encode()
        identity = "p" + hashlib.blake2b(whole, key=salt, digest_size=10).hexdigest()
    return {
        "patient": identity or None,
        "view": str(dataset.get("ViewPosition") or "").strip().upper() or None,
        "sex": str(dataset.get("PatientSex") or "").strip().upper() or None,
        "age": age_in_years(dataset.get("PatientAge")),
    }


def rows_and_columns(path: str | Path) -> tuple[int, int] | None:
    """Rows and columns a DICOM header claims; None where it does not."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    _hush_pydicom()
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(dataset.Rows), int(dataset.Columns)
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError, KeyError, TypeError):
        return None  # decoding says what is wrong


def age_in_years(text: object) -> float | None:
    """Age from a DICOM age string ("045Y", "007M", "010D") or a plain number of years.

    Returns:
        Years, or None where the text is no age or outside 0 to 120.
    """
    value = str(text or "").strip().upper()
    unit = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}.get(value[-1:])
    try:
        years = float(value[:-1]) / unit if unit else float(value)
    except ValueError:
        return None
    return years if 0 <= years <= 120 else None


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


def _hush_pydicom() -> None:
    """Real headers break many small rules; pydicom's word on each would bury ours on what matters."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _stored(dataset: "Dataset") -> NDArray[Any]:
    """Stored values (H, W), or (H, W, 3) for colour."""
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise BrokenImage("a DICOM file without an image" if len(dataset) else "not an image of a known kind")
    check_size(int(dataset.Columns), int(dataset.Rows))
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise BrokenImage(f"a DICOM file of {frames} frames; one radiograph was expected")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed and not get_decoder(syntax).is_available:
        raise BrokenImage(f"compressed as {syntax.name}, for which no decoder is installed (python-gdcm has one)")
    return np.squeeze(dataset.pixel_array)


def _displayed(dataset: "Dataset", stored: NDArray[Any], window: str) -> NDArray[np.float32]:
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        top = float(np.iinfo(stored.dtype).max)
        gray = cv2.cvtColor((stored[..., :3] / top).astype(np.float32), cv2.COLOR_RGB2GRAY)
        return gray.astype(np.float32, copy=False)
    if stored.ndim != 2:
        raise BrokenImage(f"a DICOM image of shape {stored.shape}; rows and columns were expected")

    bits = int(dataset.get("BitsStored", 8 * stored.itemsize))
    padding = _padding(dataset, stored)
    if "ModalityLUTSequence" in dataset:
        values = apply_modality_lut(stored, dataset).astype(np.float32)
        low, high = 0.0, 2.0 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    else:
        slope = float(dataset.get("RescaleSlope") or 1)
        intercept = float(dataset.get("RescaleIntercept") or 0)
        values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        signed = int(dataset.get("PixelRepresentation", 0)) == 1
        ends = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
        low, high = sorted(end * slope + intercept for end in ends)
    if not np.isfinite(values).all():
        raise BrokenImage("a DICOM image with values that are not numbers")

    shown = _voi(dataset, values) if window == "voi" else None
    if shown is None:
        if stored.dtype.kind == "f" or (window == "voi" and bits > 8):
            valid = values if padding is None else values[~padding]
            low, high = float(valid.min()), float(valid.max())
        shown = (values - low) / max(high - low, 1e-12)
    shown = np.clip(shown, 0.0, 1.0)
    if photometric == "MONOCHROME1":
        shown = 1.0 - shown
    if padding is not None:
        shown[padding] = 0.0
    return shown.astype(np.float32, copy=False)


def _padding(dataset: "Dataset", stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels outside the image proper (PS3.3 C.7.5.1.1.2), or None when there are none or nothing else."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    other = dataset.get("PixelPaddingRangeLimit", value)
    mask = (stored >= min(value, other)) & (stored <= max(value, other))
    return mask if mask.any() and not mask.all() else None


def _voi(dataset: "Dataset", values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Display values in [0, 1] by the file's first VOI LUT or window (PS3.3 C.11.2.1), None without one."""
    from pydicom.pixels.processing import apply_voi

    if dataset.get("VOILUTSequence"):
        shown = apply_voi(np.rint(values).astype(np.int32), dataset)
        top = 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return (shown / top).astype(np.float32)
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if center is None or width is None or not (width > 0 and np.isfinite([center, width]).all()):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function == "SIGMOID":
        steepness = np.float32(-4 / width)
        return (1 / (1 + np.exp(steepness * (values - np.float32(center))))).astype(np.float32)
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return (values - np.float32(center)) / np.float32(width) + np.float32(0.5)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0]) if hasattr(value, "__getitem__") and not isinstance(value, str) else float(value)
