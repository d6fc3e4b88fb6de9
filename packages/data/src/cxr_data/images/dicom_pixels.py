"""Stored values of a DICOM radiograph: what the header says of its pixels is checked against the bytes.

Every length, depth and position of bits that a header states can be wrong. Where the bytes prove another value it is
used; where they leave a doubt the file is refused, with the reason.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cxr_data.images.codestreams import codestream, unpack_rle
from cxr_data.images.dicom_padding import extreme_padding, float_padding, padding_mask
from cxr_data.images.dicom_streams import PixelHeader, colour_of, decode_stream, pixel_options
from cxr_data.images.header import NO_IMAGE, BrokenImage, check_size
from cxr_data.images.readings import as_rgb, check_order, check_sign

if TYPE_CHECKING:
    from pydicom import Dataset

_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", *_COLOURS)
_RLE, _BARE_IN_FRAGMENTS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.98"
_VIDEOS = ("1.2.840.10008.1.2.4.10", "1.2.840.10008.1.2.7.")
"""Beginnings of the transfer syntaxes of MPEG-2, MPEG-4, HEVC and ST 2110."""
_STREAMS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""Beginnings of JPEG, JPEG-LS and JPEG 2000."""
_FIRST_SEGMENT = b"\x40\0\0\0"
"""Place of the first segment in RLE, the second number of its header."""
_STORAGE = "1.2.840.10008.5.1.4.1.1"
_NOT_IMAGES = tuple(f"{_STORAGE}.{kind}." for kind in (9, 11, 66, 67, 88, 104))
"""Beginnings of the SOP classes of waveforms, presentation states, registrations and reports."""
_FLOATS = {"FloatPixelData": "f4", "DoubleFloatPixelData": "f8"}


class Stored(NamedTuple):
    """Stored values and what is known of them.

    Attributes:
        values: (H, W), or (H, W, 3) for colour.
        bits: Bits a value has; 0 for floating point.
        signed: Whether values are signed.
        padding: (H, W) pixels outside the image proper (PS3.3 C.7.5.1.1.2), or None without any.
        photometric: "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR" or "RGB".
    """

    values: NDArray[Any]
    bits: int
    signed: bool
    padding: NDArray[np.bool_] | None
    photometric: str


def stored_values(dataset: "Dataset", syntax: str | None) -> Stored:
    """Decode the one image of a data set.

    Args:
        dataset: As :func:`cxr_data.images.dicom_file.open_dicom` reads it.
        syntax: The transfer syntax its file names, if it does.

    Raises:
        BrokenImage: Not one gray or colour image, damaged, or pixels that do not fit their header.
    """
    holders = [name for name in ("PixelData", *_FLOATS) if name in dataset]
    if not holders:
        # A directory names its class in the file meta information alone.
        other = "DirectoryRecordSequence" in dataset or str(dataset.get("SOPClassUID") or "").startswith(_NOT_IMAGES)
        elsewhere = "kept on a server (JPIP)" if "PixelDataProviderURL" in dataset else "missing"
        raise BrokenImage(NO_IMAGE if other else f"{NO_IMAGE}: its pixels are {elsewhere}")
    if len(holders) > 1:
        raise BrokenImage("a DICOM file with two images; one radiograph was expected")
    header = _header(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise BrokenImage(f"a DICOM file of {frames} frames; one radiograph was expected")
    if holders[0] in _FLOATS:
        values = _floats(dataset, holders[0], header)
        return Stored(values, 0, True, float_padding(dataset, values), header.photometric)
    raw, precision, photometric = _raw(dataset, header, syntax)
    header = header._replace(photometric=photometric)
    if photometric != "RGB":
        return _placed(dataset, raw, header, precision)
    if header.signed:
        raise BrokenImage("a DICOM colour image of signed values")
    # Colour goes through the same checks of its bits; it has no padding.
    values, _ = _values(dataset, raw, header, precision, None)
    return Stored(values, min(header.stored, precision), False, None, photometric)


def _header(dataset: "Dataset") -> PixelHeader:
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        if dataset.get(keyword) in (None, ""):
            raise BrokenImage(f"damaged DICOM: its header lacks {keyword}")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    check_size(columns, rows)
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if photometric not in _PHOTOMETRIC:
        known = "of a kind of colour that is not read" if photometric else "that does not say whether air is dark"
        raise BrokenImage(f"a DICOM file {known} (PhotometricInterpretation)")
    samples = int(dataset.get("SamplesPerPixel") or (3 if photometric in _COLOURS else 1))
    if samples != (3 if photometric in _COLOURS else 1):
        raise BrokenImage(f"a DICOM file of {samples} channels that calls itself {photometric}")
    allocated = int(dataset.BitsAllocated)
    stored = int(dataset.get("BitsStored") or allocated)
    high = dataset.get("HighBit")
    high = stored - 1 if high is None or high == "" else int(high)
    if allocated == 1:
        raise BrokenImage("a DICOM bitmap of one bit a pixel; a radiograph was expected")
    if allocated not in (8, 16, 32, 64) or not 1 <= stored <= allocated or not 0 <= high < allocated:
        raise BrokenImage(f"a DICOM file of {stored} bits up to bit {high} in {allocated}, which no image has")
    return PixelHeader(
        rows, columns, samples, allocated, stored, high, int(dataset.get("PixelRepresentation") or 0) == 1, photometric
    )


def _floats(dataset: "Dataset", keyword: str, header: PixelHeader) -> NDArray[Any]:
    kind = np.dtype(("<" if dataset.original_encoding[1] is not False else ">") + _FLOATS[keyword])
    data = _native(dataset.get(keyword), header.rows * header.columns * kind.itemsize)
    values = np.frombuffer(data, kind).reshape(header.rows, header.columns).astype(kind.newbyteorder("="))
    check_order(values, "DICOM")
    return values.astype(np.float64)


def _native(data: Any, expected: int) -> bytes:
    """Uncompressed pixels of exactly the expected length, but for padding."""
    data = bytes(data or b"")
    rest = data[expected:]
    if len(data) < expected:
        raise BrokenImage(
            f"damaged DICOM: its pixels are {len(data)} bytes where the header needs {expected} "
            "(cut, or Rows, Columns or BitsAllocated are wrong)"
        )
    if len(rest) >= expected or rest != rest[:1] * len(rest):
        raise BrokenImage(
            f"a DICOM file with {len(data)} bytes of pixels where one frame has {expected} "
            "(several frames, or Rows, Columns or BitsAllocated are wrong)"
        )
    return data[:expected]


def _raw(dataset: "Dataset", header: PixelHeader, syntax: str | None) -> tuple[NDArray[Any], int, str]:
    """Decoded values as the file holds them, the bits a value can have, and their colour."""
    from pydicom.encaps import generate_fragments

    element = dataset["PixelData"]
    data = element.value
    little = dataset.original_encoding[1] is not False
    if not isinstance(data, (bytes, bytearray)):
        raise BrokenImage("damaged DICOM: its pixels are not bytes")
    if data.startswith((b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")[0 if little else 1]):
        fragments = list(generate_fragments(bytes(data)))
    elif data.startswith(_STREAMS) and len(data) < header.rows * header.columns * header.samples:
        fragments = [bytes(data)]  # a stream that was not put into fragments
    else:
        return _uncompressed(dataset, bytes(data), header, little, syntax)
    bare = syntax == _BARE_IN_FRAGMENTS
    if fragments and (bare or not _is_stream(fragments[0])):
        fragments = fragments[1:]  # the table of offsets, which some leave out
    if not fragments or not any(fragments):
        raise BrokenImage("a DICOM file without an image")
    whole = b"".join(fragments)
    if bare:
        return _uncompressed(dataset, whole, header, little, syntax)
    if (syntax or "").startswith(_VIDEOS):
        raise BrokenImage("a DICOM video; one radiograph was expected")
    if not _is_stream(whole) or whole[4:8] == _FIRST_SEGMENT:
        if syntax not in (_RLE, None) or len(whole) < 64 or whole[4:8] != _FIRST_SEGMENT:
            codestream(whole)  # says what is wrong
        if len(fragments) > 1:
            raise BrokenImage("a DICOM file of more than one frame; one radiograph was expected")
        return _run_lengths(whole, header)
    return decode_stream(codestream(whole), header)


def _is_stream(data: bytes) -> bool:
    """Whether bytes begin as one of the compressed streams does, RLE among them; a table of offsets begins with 0."""
    rle = data[4:8] == _FIRST_SEGMENT and 0 < int.from_bytes(data[:4], "little") < 16
    return rle or data[4:8] == b"jP  " or data.startswith(_STREAMS)


def _uncompressed(
    dataset: "Dataset", data: bytes, header: PixelHeader, little: bool, syntax: str | None
) -> tuple[NDArray[Any], int, str]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

    subsampled = header.photometric == "YBR_FULL_422"
    expected = header.rows * header.columns * (2 if subsampled else header.samples) * (header.allocated // 8)
    try:
        _native(data, expected)
    except BrokenImage as error:
        if syntax is None:
            raise BrokenImage(
                "a DICOM file that names no transfer syntax, whose pixels fit none of the uncompressed ones"
            ) from error
        raise
    decoder = get_decoder(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
    planes = header.samples > 1 and int(dataset.get("PlanarConfiguration") or 0) == 1
    options = pixel_options(header, header.allocated, header.stored)
    options |= {"planar_configuration": int(planes), "pixel_vr": dataset["PixelData"].VR, "correct_unused_bits": False}
    # An odd number of bytes may be written in words, the last of them whole.
    values, told = decoder.as_array(data[: expected + expected % 2], raw=not subsampled, **options)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    check_order(values, "DICOM", planes=planes)
    if header.samples == 1:
        return values, header.allocated, header.photometric
    return as_rgb(values, colour_of(told) if subsampled else header.photometric), header.allocated, "RGB"


def _run_lengths(data: bytes, header: PixelHeader) -> tuple[NDArray[Any], int, str]:
    size = header.allocated // 8
    planes = unpack_rle(data, header.rows, header.columns, header.samples, size)
    kind = np.dtype(f">{'i' if header.signed else 'u'}{size}")
    values = np.ascontiguousarray(planes).view(kind)[..., 0].astype(kind.newbyteorder("="))
    if header.samples == 1:
        return values[0], header.allocated, header.photometric
    colours = np.ascontiguousarray(values.transpose(1, 2, 0))
    return as_rgb(colours, header.photometric), header.allocated, "RGB"


def _placed(dataset: "Dataset", raw: NDArray[Any], header: PixelHeader, precision: int) -> Stored:
    padding = padding_mask(dataset, raw, header.allocated, header.signed)
    values, bits = _values(dataset, raw, header, precision, padding)
    if padding is None:  # in values that were shifted, or had an overlay above them
        padding = padding_mask(dataset, values, header.allocated, header.signed)
    if padding is None:
        padding = extreme_padding(dataset, values, bits, header.signed)
    if padding is not None and padding.all():
        padding = None
    if header.photometric != "PALETTE COLOR":  # neighbours in a palette may be of any two colours
        check_sign(values, bits, "DICOM")
    return Stored(values, bits, header.signed, padding, header.photometric)


def _values(
    dataset: "Dataset", raw: NDArray[Any], header: PixelHeader, precision: int, padding: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], int]:
    """Values from where they lie in the allocated bits, and how many bits they have."""
    stored = min(header.stored, precision)
    if stored == header.allocated:
        return raw, stored
    used = raw if padding is None else np.where(padding, raw.dtype.type(0), raw)
    wide = 8 * raw.dtype.itemsize
    bare = used.view(f"u{raw.dtype.itemsize}")
    overlays = _overlay_bits(dataset)
    # Where a compressed stream has the depth of the header or less, its decoder has placed the values.
    placed = precision != header.allocated and precision <= header.stored
    shift = 0 if placed else _shift(bare, used, header, overlays)
    above = bare >> (shift + stored)
    if header.signed:
        # Above a value its sign may be repeated.
        ones = bare.dtype.type((1 << (wide - shift - stored)) - 1)
        sign = (bare >> (shift + stored - 1)) & 1
        above = np.where((sign == 1) & (above == ones), bare.dtype.type(0), above)
    if above.any() and int(np.bitwise_or.reduce(above, axis=None)) << (shift + stored) & ~overlays:
        _refuse_unless_overlay(above, _bits_of(used, stored, shift, header.signed), stored)
    return _bits_of(raw, stored, shift, header.signed), stored


def _bits_of(raw: NDArray[Any], stored: int, shift: int, signed: bool) -> NDArray[Any]:
    """The values that lie ``shift`` bits up, in the type of ``raw`` with or without a sign."""
    wide = 8 * raw.dtype.itemsize
    top = raw.view(f"u{raw.dtype.itemsize}") << (wide - stored - shift)
    return top.view(f"{'i' if signed else 'u'}{raw.dtype.itemsize}") >> (wide - stored)


def _shift(bare: NDArray[Any], used: NDArray[Any], header: PixelHeader, overlays: int) -> int:
    """How far up the values lie: by HighBit, where the bits agree."""
    stored = header.stored
    shift = header.high + 1 - stored
    if shift == 0:
        return 0
    reach = int(used.max()), int(used.min())
    low, high = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if header.signed else (0, (1 << stored) - 1)
    fits = low <= reach[1] and reach[0] <= high
    if shift > 0:
        below = int(np.bitwise_or.reduce(bare & ((1 << shift) - 1), axis=None))
        if below == 0 or (not fits and not below & ~overlays):
            return shift
        if fits:
            return 0
    elif fits and reach[0] >= 1 << (header.high + 1):
        return 0
    raise BrokenImage(f"a DICOM file whose values do not lie in the {stored} bits up to bit {header.high}")


def _overlay_bits(dataset: "Dataset") -> int:
    """Bits of a pixel that the header gives to overlays (group 60xx, retired)."""
    bits = 0
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        # With data of its own an overlay lies beside the pixels.
        if position is not None and position.value not in (None, "") and (group, 0x3000) not in dataset:
            bits |= 1 << (int(position.value) & 31)
    return bits


def _refuse_unless_overlay(above: NDArray[Any], below: NDArray[Any], stored: int) -> None:
    """Bits above the stored ones hold an overlay only where the image goes on below them across its borders."""
    jumps: list[NDArray[Any]] = []
    for axis in (0, 1):
        edges = np.diff(above.astype(np.int64), axis=axis) != 0
        jumps.append(np.abs(np.diff(below.astype(np.int64), axis=axis))[edges])
    steps = np.concatenate(jumps)
    if len(steps) < 8 or np.median(steps) > (1 << stored) / 8:
        raise BrokenImage(f"a DICOM file with values of more than its {stored} bits (BitsStored)")
