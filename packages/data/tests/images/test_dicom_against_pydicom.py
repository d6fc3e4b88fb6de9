"""Our chain beside pydicom's own on every file with pixels that the pydicom package ships, with every difference named.

pydicom's chain is ``pixel_array``, ``apply_modality_lut``, ``apply_voi_lut`` (or ``apply_color_lut``), scaled to [0, 1]
by the range of the output that each of them states. Ours then inverts MONOCHROME1, shows padding as 0, takes luma of
colour, and stretches depths above 8 bits where a file has no window; these are done to pydicom's values here as well.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage

FILES = Path(pydicom.__file__).parent / "data"

# Files that we refuse and pydicom shows: why.
REFUSED = {
    "several frames": {
        *("SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_rle_32bit_2frame.dcm"),
        *("examples_ybr_color.dcm",),
    },
    "too small for a radiograph": {
        *(
            "JPEGLSNearLossless_08.dcm",
            "JPEGLSNearLossless_16.dcm",
            "SC_rgb_small_odd.dcm",
            "SC_rgb_small_odd_jpeg.dcm",
        ),
        *("SC_rgb_small_odd_big_endian.dcm", "rtdose.dcm", "rtdose_1frame.dcm", "rtdose_expb.dcm"),
        *("rtdose_expb_1frame.dcm", "rtdose_rle.dcm", "rtdose_rle_1frame.dcm"),
    },
    "one bit a pixel": {"liver_1frame.dcm", "liver_expb_1frame.dcm"},
    # A soft-tissue window on patches of bone: all of it is white.
    "window": {"17136", "17166", "17196"},
}
REASONS = {
    "several frames": "frames; one radiograph",
    "too small for a radiograph": "too small",
    "one bit a pixel": "one bit a pixel",
    "window": "shows next to nothing of its values",
}
# Files that neither of the two can read, of those with pixels.
UNREADABLE = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "a compressed image of",
    "MR_truncated.dcm": "8130 bytes where the header needs 8192",
    "badVR.dcm": "too small",
    "meta_missing_tsyntax.dcm": "lacks Rows",
    "nested_priv_SQ.dcm": "lacks Rows",
    "rtstruct.dcm": "without an image",
    "ExplVR_LitEndNoMeta.dcm": "without an image",
    "ExplVR_BigEndNoMeta.dcm": "without an image",
}


# Files that pydicom reads with no plugin that is installed here; test_codestreams.py knows values of theirs.
OURS_ALONE = {"JPEG-lossy.dcm", "JPGExtended.dcm"}


def with_pixels() -> list[Path]:
    actual = []
    for path in sorted(FILES.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        marked = (b"\xe0\x7f\x10\x00" in data or b"\x7f\xe0\x00\x10" in data) and b"DICM" in data[128:132]
        if marked or path.name in UNREADABLE or path.name == "image_dfl.dcm":  # deflated: no tag is seen
            actual.append(path)
    return actual


def theirs(data: bytes) -> np.ndarray:
    """What pydicom shows, in [0, 1]."""
    dataset = dcmread(io.BytesIO(data))
    stored = dataset.pixel_array
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
    if stored.ndim == 3:
        red, green, blue = np.moveaxis(stored.astype(np.float64) / np.iinfo(stored.dtype).max, -1, 0)[:3]
        gray = 0.299 * red + 0.587 * green + 0.114 * blue
        return (gray - gray.min()) / np.ptp(gray) if stored.itemsize > 1 and photometric == "RGB" else gray
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    if "WindowCenter" in dataset:
        shown = apply_voi_lut(values, dataset)
        # The output range of apply_windowing: that of the stored values after the rescale.
        half = 2.0 ** (dataset.BitsStored - 1)
        ends = (-half, half - 1) if dataset.PixelRepresentation else (0.0, 2 * half - 1)
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        low, high = sorted(end * slope + intercept for end in ends)
    elif dataset.BitsStored > 8:
        shown, low, high = values, values.min(), values.max()
    else:
        shown, low, high = values, 0.0, 255.0
    shown = (shown - low) / (high - low)
    return 1 - shown if photometric == "MONOCHROME1" else shown


def padding_of(dataset: Any) -> np.ndarray:
    """Pixels of the padding value, black in our picture; all files of pydicom write it with the sign of the pixels."""
    value = dataset.get("PixelPaddingValue")
    actual = np.zeros(dataset.pixel_array.shape[:2], bool) if value is None else dataset.pixel_array == value
    return actual if actual.any() and not actual.all() else np.zeros(actual.shape[:2], bool)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom", "ignore::UserWarning")
@pytest.mark.parametrize("path", with_pixels(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_with_pixels_is_shown_alike_or_refused_for_a_reason(path):
    data = path.read_bytes()
    refused = next((REASONS[reason] for reason, names in REFUSED.items() if path.name in names), None)
    reason = UNREADABLE.get(path.name, refused)
    if reason is not None:
        with pytest.raises(BrokenImage, match=reason):
            decode_dicom(data, "voi")
        return
    if path.name in OURS_ALONE:
        assert decode_dicom(data, "voi").shape == (1024, 256)
        return
    dataset = dcmread(path)
    ours, expected = decode_dicom(data, "voi"), theirs(data)
    padding = padding_of(dataset)
    if padding.any():  # outside the image proper: black, and no part of the range that is stretched
        assert ours[padding].max() == 0
    # pydicom maps the values below its window to the lowest output; so do we. The scale is that of the window.
    np.testing.assert_allclose(ours[~padding], expected[~padding], atol=2e-4)


def test_the_differences_are_of_files_that_exist():
    names = {path.name for path in with_pixels()}
    assert set(UNREADABLE) | {name for group in REFUSED.values() for name in group} <= names
    assert len(names) > 90
