"""GDCM called directly: JPEG of 12 bits, which pydicom's plugin of it leaves out."""

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.codestreams import Stream
from cxr_data.images.header import BrokenImage
from cxr_data.images.silence import quiet_libraries


def decode_twelve_bits(data: bytes, stream: Stream) -> NDArray[np.uint16]:
    """Decode a sequential gray JPEG of 12 bits.

    Args:
        data: The stream.
        stream: What it says of itself.

    Returns:
        (H, W) in [0, 4095].

    Raises:
        BrokenImage: Damaged.
    """
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(data + b"\0" * (len(data) % 2))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((stream.columns, stream.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    with quiet_libraries():
        try:
            decoded = image.GetBuffer().encode("utf-8", "surrogateescape")
        except Exception as error:  # GDCM raises whatever SWIG makes of its failures
            raise BrokenImage(f"damaged DICOM: its {stream.kind} cannot be decoded") from error
    if len(decoded) != 2 * stream.rows * stream.columns:
        raise BrokenImage(f"damaged DICOM: its {stream.kind} decode to another size")
    return np.frombuffer(decoded, "<u2").astype(np.uint16).reshape(stream.rows, stream.columns)
