"""DICOM files made for a test."""

import io
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian


def dicom(
    stored: np.ndarray,
    *,
    bits: int = 12,
    pixels: bytes | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    **tags: Any,
) -> bytes:
    """Bytes of a DICOM file.

    Args:
        stored: (H, W) or (H, W, 3) values; depth and sign are those of its dtype.
        bits: BitsStored.
        pixels: PixelData, where it is not the bytes of ``stored``.
        syntax: Transfer syntax.
        tags: Further elements by keyword; a tuple is VR and value, None removes one.
    """
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made.Rows, made.Columns = stored.shape[:2]
    made.SamplesPerPixel = 1 if stored.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if stored.ndim == 2 else "RGB"
    if stored.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * stored.itemsize
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.tobytes() if pixels is None else pixels
    for name, value in tags.items():
        if isinstance(value, tuple):
            made.add_new(name, *value)
        elif value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()
