"""Compressed pixels in DICOM: whole streams of every kind are read, damaged ones refused, and nothing is printed."""

import io
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_fragments
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr_data.images.codestreams import unpack_rle
from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage
from cxr_data.images.huffman import check_huffman

HEIGHT, WIDTH = 250, 212
LOSSY = ("JPEG", "progressive JPEG", "JPEG 2000 lossy", "JPEG of 12 bits")
KINDS = (*LOSSY, "JPEG 2000", "JPEG-LS", "RLE", "JPEG lossless")


def picture(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 9)
    values = (values - values.min()) / (values.max() - values.min()) * 3900 + rng.normal(0, 12, values.shape) + 90
    values = np.clip(np.rint(values), 0, 4095).astype(np.uint16)
    return (values >> 4).astype(np.uint8) if kind.endswith("JPEG") else values


def dicom(kind: str, stream: bytes | None = None, syntax: UID | None = None, parts: int = 1) -> bytes:
    values = picture(kind)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID("1.2.3.4")
    made.Rows, made.Columns, made.SamplesPerPixel = HEIGHT, WIDTH, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored = (8, 8) if values.itemsize == 1 else (16, 12)
    made.HighBit = made.BitsStored - 1
    if stream is None:
        made.file_meta.TransferSyntaxUID, made.PixelData = ExplicitVRLittleEndian, values.tobytes()
    else:
        made.file_meta.TransferSyntaxUID = syntax or SYNTAX[kind]
        made.PixelData = encapsulate([stream], fragments_per_frame=parts)
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


SYNTAX = {
    "JPEG": JPEGBaseline8Bit,
    "progressive JPEG": JPEGBaseline8Bit,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG 2000 lossy": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG of 12 bits": JPEGExtended12Bit,
}


def stream(kind: str, folder: Path) -> bytes:
    file = io.BytesIO()
    if kind.endswith("JPEG"):
        Image.fromarray(picture(kind)).save(file, "JPEG", quality=92, progressive=kind != "JPEG")
    elif kind.startswith("JPEG 2000"):
        lossy = {"irreversible": True, "quality_mode": "rates", "quality_layers": [8]} if "lossy" in kind else {}
        Image.fromarray(picture(kind)).save(file, "JPEG2000", no_jp2=True, **lossy)
    elif kind in ("JPEG lossless", "JPEG of 12 bits"):
        return by_gdcm(folder, kind)
    else:
        made = dcmread(io.BytesIO(dicom(kind)))
        made.compress(SYNTAX[kind], encoding_plugin="pydicom" if kind == "RLE" else "pyjpegls")
        return next(iter(list(generate_fragments(made.PixelData))[1:]))
    return file.getvalue()


def by_gdcm(folder: Path, kind: str) -> bytes:
    import gdcm

    syntaxes = gdcm.TransferSyntax
    syntax = syntaxes.JPEGLosslessProcess14_1 if kind == "JPEG lossless" else syntaxes.JPEGExtendedProcess2_4
    (folder / "plain.dcm").write_bytes(dicom(kind))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image = reader.GetImage()
    if kind == "JPEG of 12 bits":
        image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))  # or it writes 16 bits, which no JPEG of this kind has
    change.SetInput(image)
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return list(generate_fragments(dcmread(folder / "packed.dcm").PixelData))[1]


def start_of_pixels(data: bytes) -> int:
    """Where the coded pixels of a stream begin, after its headers."""
    for marker in (b"\xff\xda", b"\xff\x93"):
        if data[:2] in (b"\xff\xd8", b"\xff\x4f") and marker in data:
            return data.index(marker) + 16
    return 70


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_streams_are_read(kind, parts, tmp_path, capfd):
    actual = decode_dicom(dicom(kind, stream(kind, tmp_path), parts=1 if kind == "RLE" else parts), "full")
    expected = picture(kind) / (255 if kind.endswith("JPEG") else 4095)
    np.testing.assert_allclose(actual, expected, atol=0.06 if kind in LOSSY else 1e-6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_streams_are_refused(kind, tmp_path, capfd):
    data = stream(kind, tmp_path)
    for share in (0.02, 0.1, 0.4, 0.7, 0.95, 0.995):
        short = data[: int(share * len(data))]
        for cut in (short, short + b"\xff\xd9", short + bytes(len(data) - len(short) - 2) + data[-2:]):
            with pytest.raises(BrokenImage, match=r"damaged|truncated"):
                decode_dicom(dicom(kind, cut), "voi")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("kind", KINDS)
def test_overwritten_streams_are_refused(kind, fill, tmp_path, capfd):
    data = stream(kind, tmp_path)
    rng = np.random.default_rng(0)
    begin, length = start_of_pixels(data), 4096 if len(data) > 30_000 else 1200
    accepted = 0
    for at in np.linspace(begin, len(data) - length - 4, 20).astype(int):
        other = bytes(length) if fill == "zeros" else rng.bytes(length)
        try:
            decode_dicom(dicom(kind, data[:at] + other + data[at + length :]), "voi")
            accepted += 1
        except BrokenImage:
            continue
    assert accepted == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("named", [JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless, RLELossless])
@pytest.mark.parametrize("kind", ["JPEG", "JPEG 2000", "JPEG-LS"])
def test_the_bytes_tell_the_kind_and_not_the_transfer_syntax(kind, named, tmp_path):
    data = stream(kind, tmp_path)
    expected = decode_dicom(dicom(kind, data), "voi")
    np.testing.assert_array_equal(decode_dicom(dicom(kind, data, named), "voi"), expected)


def test_a_jp2_file_inside_is_read():
    file = io.BytesIO()
    Image.fromarray(picture("JPEG 2000")).save(file, "JPEG2000", no_jp2=False)
    assert file.getvalue()[4:8] == b"jP  "
    actual = decode_dicom(dicom("JPEG 2000", file.getvalue()), "full")
    np.testing.assert_allclose(actual, picture("JPEG 2000") / 4095, atol=1e-6)


def test_every_bit_of_a_lossless_scan_is_followed(tmp_path):
    data = stream("JPEG lossless", tmp_path).rstrip(b"\0")
    check_huffman(data)
    for damaged in (data[:-3] + data[-2:], data[:-2] + b"\x11" + data[-2:], data[:-2] + bytes(9) + data[-2:]):
        with pytest.raises(BrokenImage, match="cannot be read to its end"):
            check_huffman(damaged)


def test_every_code_of_a_scan_of_twelve_bits_is_followed(tmp_path):
    data = stream("JPEG of 12 bits", tmp_path).rstrip(b"\0")
    check_huffman(data)
    for damaged in (data[:-3] + data[-2:], data[:-2] + b"\x11" + data[-2:], data[:-2] + bytes(9) + data[-2:]):
        with pytest.raises(BrokenImage, match="cannot be read to its end"):
            check_huffman(damaged)


def test_what_is_not_read_of_twelve_bits_says_why(tmp_path):
    data = stream("JPEG of 12 bits", tmp_path)
    at = data.index(b"\xff\xc1")
    progressive = data[: at + 1] + b"\xc2" + data[at + 2 :]
    with pytest.raises(BrokenImage, match=r"progressive JPEG of 12 bits, for which there is no decoder: .*dcmdjpeg"):
        decode_dicom(dicom("JPEG of 12 bits", progressive), "voi")


def test_twelve_bits_of_others_have_their_known_values():
    """Values that pydicom's own tests have of this file, by another decoder."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "JPGExtended.dcm"
    actual = decode_dicom(path.read_bytes(), "full")
    assert actual.shape == (1024, 256)
    values = actual / actual.max() * 264
    assert (round(values[420, 140]), round(values[230, 120])) == (244, 95)


def test_a_missing_decoder_is_named_with_the_extra(tmp_path, monkeypatch):
    import cxr_data.images.dicom_streams as pixels

    data = dicom("JPEG lossless", stream("JPEG lossless", tmp_path))
    monkeypatch.setattr(pixels, "_PLUGINS", ("pillow",))
    with pytest.raises(BrokenImage, match=r"JPEG lossless.*pip install 'cxr-data\[codecs\]'"):
        decode_dicom(data, "voi")


def test_run_lengths_are_counted():
    # PS3.5 G.3: one segment; 3 literals, 4 of one value, and a code that does nothing.
    segment = bytes([2, 7, 8, 9, 253, 5, 128])
    frame = np.array([1, 64, *[0] * 14], "<u4").tobytes() + segment
    np.testing.assert_array_equal(unpack_rle(frame, 1, 7, 1, 1).ravel(), [7, 8, 9, 5, 5, 5, 5])
    for rows, columns in ((1, 6), (1, 8), (2, 7)):
        with pytest.raises(BrokenImage, match="decode to another size"):
            unpack_rle(frame, rows, columns, 1, 1)
    with pytest.raises(BrokenImage, match="1 RLE segments where its pixels need 2"):
        unpack_rle(frame, 1, 7, 1, 2)


@pytest.mark.parametrize("selection", [(0, 0, 0), (8, 0, 0), (1, 5, 0), (1, 0, 0x11), (1, 0, 0x0F)])
def test_scans_of_lossless_jpeg_that_cannot_be_are_refused(selection, tmp_path, capfd):
    """Selection value, and a point transform of more bits than the values have (ITU T.81, H.2.1)."""
    data = bytearray(stream("JPEG lossless", tmp_path))
    at = data.index(b"\xff\xda")
    data[at + 7 : at + 10] = bytes(selection)
    data[data.index(b"\xff\xc3") + 4] = 12
    with pytest.raises(BrokenImage, match="cannot be read to its end"):
        decode_dicom(dicom("JPEG lossless", bytes(data)), "voi")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_offsets_may_be_missing(kind, tmp_path):
    whole = dcmread(io.BytesIO(dicom(kind, stream(kind, tmp_path))))
    expected = decode_dicom(dicom(kind, stream(kind, tmp_path)), "voi")
    length = int.from_bytes(whole.PixelData[4:8], "little")
    whole.PixelData = whole.PixelData[8 + length :]
    file = io.BytesIO()
    whole.save_as(file, enforce_file_format=True)
    np.testing.assert_array_equal(decode_dicom(file.getvalue(), "voi"), expected)
