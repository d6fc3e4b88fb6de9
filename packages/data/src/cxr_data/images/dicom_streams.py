"""Compressed pixels of DICOM: decoded by what is installed, and read as their header says where it can be true."""

from importlib.util import find_spec
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cxr_data.images.codestreams import Stream, check_stream, describe
from cxr_data.images.gdcm_decoder import decode_twelve_bits
from cxr_data.images.header import BrokenImage
from cxr_data.images.readings import check_sign
from cxr_data.images.silence import quiet_libraries

_DECODERS = {  # kind of stream → transfer syntax whose decoders read it
    "JPEG": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.57",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
}
_PLUGINS = ("pillow", "pyjpegls", "gdcm", "pylibjpeg")
"""In this order: what is always installed comes first, so that the extra ``codecs`` changes no pixel."""


class PixelHeader(NamedTuple):
    """What a DICOM header says of the layout of its pixels."""

    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str


def pixel_options(header: PixelHeader, allocated: int, stored: int) -> dict[str, Any]:
    """What pydicom's decoders want to know: the header, but for the bits allocated and stored."""
    return {
        "rows": header.rows,
        "columns": header.columns,
        "samples_per_pixel": header.samples,
        "number_of_frames": 1,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "pixel_representation": int(header.signed),
        "photometric_interpretation": header.photometric,
        "pixel_keyword": "PixelData",
        "planar_configuration": 0,
    }


def colour_of(told: dict[str, Any]) -> str:
    """The colours that pydicom says it has decoded.

    Raises:
        BrokenImage: They are not RGB or gray.
    """
    colour = str(told["photometric_interpretation"])
    if colour.startswith("YBR"):
        raise BrokenImage(f"a DICOM file of a kind of colour that is not read ({colour})")
    return colour


def decode_stream(data: bytes, header: PixelHeader) -> tuple[NDArray[Any], int, str]:
    """Decode a stream as :func:`cxr_data.images.codestreams.codestream` gives it.

    Args:
        data: The stream.
        header: What the DICOM header says of it.

    Returns:
        (H, W) or (H, W, 3) values, signed as the header says; the bits a value can have; "RGB", or for gray what the
        header says.

    Raises:
        BrokenImage: Damaged, of another size, depth or sign than the header says, or no decoder is installed.
    """
    stream = describe(data)
    if (stream.rows, stream.columns) != (header.rows, header.columns):
        raise BrokenImage(
            f"a DICOM file of {header.columns} x {header.rows} pixels with a compressed image of "
            f"{stream.columns} x {stream.rows}"
        )
    if stream.samples != header.samples:
        raise BrokenImage(f"a DICOM file of {header.samples} channels with a compressed image of {stream.samples}")
    if stream.bits > header.allocated:
        raise BrokenImage(f"a DICOM file of {header.allocated} bits with a compressed image of {stream.bits}")
    if stream.bits <= 8 < header.stored:
        raise BrokenImage(f"a DICOM file of {header.stored} bits with a compressed image of {stream.bits}")
    check_stream(data, stream)
    values, photometric = _decoded(data, stream, header)
    if stream.signed == header.signed:
        return values, stream.bits, photometric
    if stream.signed:
        if values.min() < 0:
            raise BrokenImage(
                "a DICOM file of unsigned values with a compressed image of signed ones (PixelRepresentation)"
            )
        return values.view(f"u{values.itemsize}"), stream.bits, photometric
    whole = values.view(f"i{values.itemsize}")
    if stream.bits < header.stored:  # the bit of the sign is above those that the stream has
        check_sign(values, stream.bits, "DICOM")
        return whole, header.stored, photometric
    unused = 8 * values.itemsize - stream.bits
    return whole << unused >> unused, stream.bits, photometric


def _decoded(data: bytes, stream: Stream, header: PixelHeader) -> tuple[NDArray[Any], str]:
    """Decode by the first installed decoder that reads such streams."""
    if stream.kind == "JPEG of 12 bits":
        if header.photometric not in ("MONOCHROME1", "MONOCHROME2"):
            raise BrokenImage(f"a DICOM file in JPEG of 12 bits that calls itself {header.photometric}")
        if "gdcm" not in _PLUGINS or not find_spec("gdcm"):
            raise _no_decoder(stream)
        return decode_twelve_bits(data, stream), header.photometric
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    decoder = get_decoder(UID(_DECODERS[stream.kind]))
    options = pixel_options(header, 8 if stream.bits <= 8 else 16 if stream.bits <= 16 else 32, stream.bits)
    options["pixel_representation"] = int(stream.signed)
    plugins = [plugin for plugin in _PLUGINS if plugin in decoder.available_plugins]
    if "pillow" in plugins and stream.bits > (16 if stream.samples == 1 else 8):
        plugins.remove("pillow")  # it would make 8 bits of them
    if not plugins:
        raise _no_decoder(stream)
    failure: Exception | None = None
    # In colour, Pillow refuses sound streams that GDCM reads.
    for plugin in plugins if stream.samples > 1 else plugins[:1]:
        try:
            with quiet_libraries():
                values, told = decoder.as_array(encapsulate([data]), decoding_plugin=plugin, **options)
        except Exception as error:  # decoders raise whatever their libraries do
            failure = error
        else:
            return values, colour_of(told)
    raise BrokenImage(f"damaged DICOM: its {stream.kind} pixels cannot be decoded") from failure


def _no_decoder(stream: Stream) -> BrokenImage:
    return BrokenImage(
        f"compressed as {stream.kind} ({stream.bits} bits), for which no decoder is installed: "
        "pip install 'cxr-data[codecs]'"
    )
