"""Headers that the bytes contradict: the right picture where the bytes prove it, else a refusal with the reason."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from dicom_files import dicom
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from cxr_data.images.dicom import decode_dicom
from cxr_data.images.header import BrokenImage
from cxr_data.images.lookup_tables import depth

HEIGHT, WIDTH = 72, 64


def picture(bits: int = 12) -> np.ndarray:
    """A smooth image over (nearly) all values of a depth."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 5)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.rint(smooth * 0.97 * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def table(entries: np.ndarray, *, bits: int, first: int = 0, vr: str = "US", announced: int | None = None) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [announced or len(entries), first, bits])
    as_words = entries.astype("<u2")
    item.add_new("LUTData", vr, as_words.tolist() if vr == "US" else entries.tobytes())
    return Sequence([item])


def alike(actual: np.ndarray, expected: np.ndarray, tolerance: float = 0.002) -> None:
    """The same picture but for the last entry of a table counted as full, or the depth above it."""
    low, high = actual.min(), actual.max()
    assert high - low > 0.9 * (expected.max() - expected.min())
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def scaled(values: np.ndarray, bits: int) -> np.ndarray:
    return values / (2.0**bits - 1)


# Lookup tables


@pytest.mark.parametrize("announced", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("true", [8, 10, 12, 16])
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_table_has_the_depth_of_its_entries(kind, vr, true, announced):
    stored = picture()
    entries = np.rint(np.linspace(0, 1, 4096) ** 1.5 * (2**true - 1)).astype("<u2")
    tags: dict[str, Any] = {kind: table(entries, bits=announced, vr=vr)}
    data = dicom(stored, **tags)
    if announced == true == 16:  # pydicom's own functions, which pass over the depth
        dataset = dcmread(io.BytesIO(data))
        applied = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
        np.testing.assert_array_equal(applied, entries[stored])
    alike(decode_dicom(data, "voi" if kind == "VOILUTSequence" else "full"), scaled(entries[stored], true))


def test_a_table_that_uses_half_of_its_depth_is_believed_and_less_is_refused():
    entries = np.linspace(0, 40_000, 4096).astype("<u2")
    alike(
        decode_dicom(dicom(picture(), VOILUTSequence=table(entries // 2, bits=16)), "voi"),
        entries[picture()] // 2 / 65535,
    )
    for bits, largest in ((16, 9_000), (16, 2_600), (12, 900), (8, 20_000), (16, 60)):
        entries = np.linspace(0, largest, 4096).astype("<u2")
        with pytest.raises(BrokenImage, match=f"lookup table of {bits} bits an entry by its descriptor"):
            decode_dicom(dicom(picture(), VOILUTSequence=table(entries, bits=bits)), "voi")


def test_depths():
    assert [depth(16, 4095), depth(16, 4000), depth(12, 4095), depth(12, 2500), depth(8, 4095)] == [12, 12, 12, 12, 12]
    assert [depth(16, 65535), depth(16, 33_000), depth(16, 20_000), depth(16, 32_767), depth(16, 255)] == [
        16,
        16,
        16,
        15,
        8,
    ]


@pytest.mark.parametrize("announced", [4000, 2048, 65535, 1])
def test_a_table_of_another_length_is_refused(announced):
    entries = np.arange(4096, dtype="<u2")
    with pytest.raises(BrokenImage, match="another length than its descriptor"):
        decode_dicom(dicom(picture(), VOILUTSequence=table(entries, bits=12, announced=announced)), "voi")


def test_entries_of_eight_bits_are_read_two_a_word():
    entries = (255 * np.sqrt(np.linspace(0, 1, 4096))).astype(np.uint8)
    for bits, vr in ((8, "OW"), (16, "OW")):
        data = dicom(picture(), VOILUTSequence=table(entries, bits=bits, vr=vr))
        alike(decode_dicom(data, "voi"), entries[picture()] / 255)


def test_the_first_value_of_a_table_may_be_written_with_the_other_sign():
    stored = picture().astype(np.int16) - 2048
    entries = np.arange(4096, dtype="<u2")
    for descriptor in ([4096, 63488, 12], [4096, -2048, 12]):
        item = table(entries, bits=12)
        item[0].add_new("LUTDescriptor", "US" if descriptor[1] > 0 else "SS", descriptor)
        alike(decode_dicom(dicom(stored, VOILUTSequence=item), "voi"), scaled(picture(), 12))


@pytest.mark.parametrize(("entries", "first"), [(100, 20_000), (256, 0), (256, 2000)])
def test_a_table_that_maps_next_to_nothing_of_the_image_is_refused(entries, first):
    made = table(np.arange(entries), bits=8, first=first)
    for file in (dicom(picture(), ModalityLUTSequence=made), dicom(picture(), VOILUTSequence=made)):
        with pytest.raises(BrokenImage, match="maps none of the values"):
            decode_dicom(file, "voi")


def test_a_table_that_is_no_curve_is_refused():
    curve = np.rint(np.linspace(0, 1, 4096) ** 2 * 4095).astype(np.uint16)
    for entries in (curve.byteswap(), np.random.default_rng(0).permutation(curve)):
        with pytest.raises(BrokenImage, match="like noise"):
            decode_dicom(dicom(picture(), VOILUTSequence=table(entries, bits=16)), "voi")


def test_a_table_of_one_value_is_refused():
    with pytest.raises(BrokenImage, match="entries are all the same"):
        decode_dicom(dicom(picture(), VOILUTSequence=table(np.full(4096, 3000), bits=12)), "voi")


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_an_empty_sequence_of_tables_is_none(keyword):
    window: dict[str, Any] = {"WindowCenter": "2000", "WindowWidth": "1000"}
    expected = decode_dicom(dicom(picture(), **window), "voi")
    window[keyword] = Sequence([])
    np.testing.assert_array_equal(decode_dicom(dicom(picture(), **window), "voi"), expected)


@pytest.mark.parametrize(("announced", "true"), [(16, 16), (16, 12), (16, 8), (8, 8), (12, 12), (8, 16)])
def test_a_palette_has_the_depth_of_its_entries(announced, true):
    stored = picture(8)
    ramp = np.rint(np.linspace(0, 2**true - 1, 256)).astype("<u2")
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, announced]
        tags[f"{colour}PaletteColorLookupTableData"] = ramp.tobytes()
    data = dicom(stored, bits=8, **tags)
    alike(decode_dicom(data, "voi"), scaled(ramp[stored], true))
    if announced == 16:
        np.testing.assert_array_equal(apply_color_lut(stored, dcmread(io.BytesIO(data)))[..., 0], ramp[stored])


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_colour_is_shown_by_its_stored_bits(bits):
    gray = picture(bits)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    actual = decode_dicom(dicom(rgb, bits=bits), "full")
    alike(actual, scaled(gray, bits), 1e-5)
    if bits > 8:
        alike(
            decode_dicom(dicom(rgb // 4, bits=16), "voi"), (gray // 4 - gray.min() // 4) / float(gray.max() // 4), 1e-4
        )


# Where values lie


@pytest.mark.parametrize(("bits", "high"), [(12, 15), (10, 15), (12, 13), (8, 15), (14, 15)])
@pytest.mark.parametrize("signed", [False, True])
def test_values_in_the_upper_bits_are_shifted_down(bits, high, signed):
    values = picture(bits).astype(np.uint16)
    expected = scaled(values, bits)
    raw = values << (high + 1 - bits)
    if signed:
        raw = ((values.astype(np.int16) - (1 << (bits - 1))) << (high + 1 - bits)).astype(np.int16)
    alike(decode_dicom(dicom(raw, bits=bits, HighBit=high), "full"), expected)


@pytest.mark.parametrize("high", [15, 13, 12, 7, 0])
def test_a_wrong_high_bit_is_passed_over_where_the_values_prove_it(high):
    expected = decode_dicom(dicom(picture()), "full")
    np.testing.assert_array_equal(decode_dicom(dicom(picture(), HighBit=high), "full"), expected)


def test_values_that_lie_nowhere_are_refused():
    noise = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH)).astype(np.uint16)
    with pytest.raises(BrokenImage, match="do not lie in the 12 bits up to bit 15"):
        decode_dicom(dicom(noise, HighBit=15), "voi")
    with pytest.raises(BrokenImage, match="do not lie in the 12 bits up to bit 7"):
        decode_dicom(dicom(picture(8).astype(np.uint16), HighBit=7), "voi")


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_more_bits_than_are_stored_are_refused(bits):
    with pytest.raises(BrokenImage, match=f"values of more than its {bits} bits"):
        decode_dicom(dicom(picture(16), bits=bits), "voi")


def overlay() -> np.ndarray:
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.putText(drawn, "L 12", (4, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1, 2)
    return drawn.astype(np.uint16)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("bit", [12, 13, 15])
def test_overlay_bits_are_cleared(bit, declared):
    tags = {"OverlayBitPosition": (0x60000102, "US", bit)} if declared else {}
    data = dicom(picture() | (overlay() << bit))
    if declared:
        made = dcmread(io.BytesIO(data))
        made.add_new((0x6000, 0x0102), *tags["OverlayBitPosition"][1:])
        file = io.BytesIO()
        made.save_as(file)
        data = file.getvalue()
    np.testing.assert_array_equal(decode_dicom(data, "voi"), decode_dicom(dicom(picture()), "voi"))


@pytest.mark.parametrize("bit", [12, 13, 15])
def test_overlay_bits_inside_jpeg_2000_are_cleared(bit):
    file = io.BytesIO()
    Image.fromarray(picture() | (overlay() << bit)).save(file, "JPEG2000", no_jp2=True)
    data = dicom(picture(), pixels=encapsulate([file.getvalue()]), syntax=JPEG2000Lossless)
    np.testing.assert_array_equal(decode_dicom(data, "voi"), decode_dicom(dicom(picture()), "voi"))


def test_an_overlay_below_the_image_is_cleared():
    made = dcmread(io.BytesIO(dicom((picture() << 4) | overlay(), HighBit=15)))
    made.add_new((0x6000, 0x0102), "US", 0)
    file = io.BytesIO()
    made.save_as(file)
    np.testing.assert_array_equal(decode_dicom(file.getvalue(), "voi"), decode_dicom(dicom(picture()), "voi"))


def test_signs_may_be_repeated_above_the_stored_bits_or_not():
    values = picture().astype(np.int16) - 2048
    expected = scaled(picture(), 12)
    alike(decode_dicom(dicom(values), "full"), expected, 1e-6)
    alike(decode_dicom(dicom(values & 0xFFF), "full"), expected, 1e-6)


# How much there is


@pytest.mark.parametrize("frames", [None, "1", "0"])
@pytest.mark.parametrize("number", [2, 3])
def test_more_than_one_frame_is_refused_whatever_the_header_says(frames, number):
    tags = {} if frames is None else {"NumberOfFrames": frames}
    with pytest.raises(BrokenImage, match="where one frame has 9216"):
        decode_dicom(dicom(picture(), pixels=picture().tobytes() * number, **tags), "voi")


@pytest.mark.parametrize("parts", [1, 2])
def test_more_than_one_compressed_frame_is_refused(parts):
    def stream(codec: str, **options: object) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture(8)).save(file, codec, **options)
        return file.getvalue()

    for codec, syntax in (("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)):
        one = stream(codec, **({"no_jp2": True} if codec == "JPEG2000" else {}))
        pixels = encapsulate([one, one], fragments_per_frame=parts)
        with pytest.raises(BrokenImage, match="more than one frame"):
            decode_dicom(dicom(picture(8), bits=8, pixels=pixels, syntax=syntax), "voi")
        split = encapsulate([one], fragments_per_frame=3)
        np.testing.assert_allclose(
            decode_dicom(dicom(picture(8), bits=8, pixels=split, syntax=syntax), "voi"), picture(8) / 255, atol=0.05
        )


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_a_stream_that_was_not_put_into_fragments_is_read(kind):
    file = io.BytesIO()
    Image.fromarray(picture(8)).save(file, kind, **({"no_jp2": True} if kind == "JPEG2000" else {"quality": 95}))
    shown = decode_dicom(dicom(picture(8), bits=8, pixels=file.getvalue()), "voi")
    np.testing.assert_allclose(shown, picture(8) / 255, atol=0.05)


@pytest.mark.parametrize(("allocated", "held"), [(16, 8), (8, 16), (32, 16), (16, 32)])
def test_bits_allocated_that_the_data_deny_are_refused(allocated, held):
    values = picture(8).astype(f"u{held // 8}")
    with pytest.raises(BrokenImage, match="BitsAllocated"):
        decode_dicom(dicom(values, bits=8, BitsAllocated=allocated), "voi")


@pytest.mark.parametrize("tags", [{"Rows": HEIGHT - 1}, {"Columns": WIDTH + 2}, {"Rows": 2 * HEIGHT}])
def test_another_size_than_the_data_is_refused(tags):
    with pytest.raises(BrokenImage, match="Rows, Columns or BitsAllocated are wrong"):
        decode_dicom(dicom(picture(), **tags), "voi")
    file = io.BytesIO()
    Image.fromarray(picture(8)).save(file, "JPEG")
    with pytest.raises(BrokenImage, match="with a compressed image of 64 x 72"):
        decode_dicom(
            dicom(picture(8), bits=8, pixels=encapsulate([file.getvalue()]), syntax=JPEGBaseline8Bit, **tags), "voi"
        )


def test_padding_after_the_pixels_is_no_frame():
    expected = decode_dicom(dicom(picture()), "voi")
    for rest in (b"\0", b"\0" * 32, b"\xff" * 100):
        np.testing.assert_array_equal(
            decode_dicom(dicom(picture(), pixels=picture().tobytes() + rest), "voi"), expected
        )
    with pytest.raises(BrokenImage, match="where one frame has"):
        decode_dicom(dicom(picture(), pixels=picture().tobytes() + picture().tobytes()[:100]), "voi")


def test_a_compressed_image_of_another_depth_or_colour_is_refused():
    file = io.BytesIO()
    Image.fromarray(picture(16)).save(file, "JPEG2000", no_jp2=True)
    pixels = encapsulate([file.getvalue()])
    with pytest.raises(BrokenImage, match="of 8 bits with a compressed image of 16"):
        decode_dicom(dicom(picture(8), bits=8, pixels=pixels, syntax=JPEG2000Lossless), "voi")
    with pytest.raises(BrokenImage, match="values of more than its 12 bits"):
        decode_dicom(dicom(picture(), pixels=pixels, syntax=JPEG2000Lossless), "voi")
    file = io.BytesIO()
    Image.fromarray(picture(8)).convert("RGB").save(file, "JPEG")
    with pytest.raises(BrokenImage, match="of 1 channels with a compressed image of 3"):
        decode_dicom(dicom(picture(8), bits=8, pixels=encapsulate([file.getvalue()]), syntax=JPEGBaseline8Bit), "voi")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PhotometricInterpretation": None}, "does not say whether air is dark"),
        ({"PhotometricInterpretation": "CMYK"}, "of a kind of colour that is not read"),
        ({"PhotometricInterpretation": "RGB"}, "of 1 channels that calls itself RGB"),
        ({"SamplesPerPixel": 3}, "of 3 channels that calls itself MONOCHROME2"),
        ({"BitsStored": 17}, "of 17 bits up to bit 11 in 16"),
        ({"Rows": None}, "its header lacks Rows"),
        ({"PresentationLUTShape": ("LO", "Inverse ")}, "whether air is dark"),
        ({"PresentationLUTSequence": table(np.arange(4096), bits=12)}, "a lookup table for its presentation"),
        ({"WindowCenter": "9", "WindowWidth": "99", "VOILUTFunction": "GAMMA"}, r"not read \(VOILUTFunction GAMMA\)"),
    ],
)
def test_a_header_that_says_nothing_usable_is_refused(tags, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode_dicom(dicom(picture(), **tags), "voi")


def test_a_header_without_the_depth_of_its_pixels_is_refused():
    with pytest.raises(BrokenImage, match="its header lacks BitsAllocated"):
        decode_dicom(dicom(picture()).replace(b"\x28\x00\x00\x01US", b"\x28\x00\x99\x00US"), "voi")


# Padding


def padded(signed: bool) -> tuple[np.ndarray, int, np.ndarray]:
    """An image with a padded border, the padding value, and what is shown."""
    values = picture(14).astype(np.int64) - (8000 if signed else 0) + (0 if signed else 100)
    border = np.zeros((HEIGHT, WIDTH), bool)
    border[:9] = True
    value = -32768 if signed else 65535
    inside = values[~border]
    shown = np.where(border, 0, (values - inside.min()) / (inside.max() - inside.min()))
    values[border] = value
    return values.astype(np.int16 if signed else np.uint16), value, shown


@pytest.mark.parametrize("limit", [False, True])
@pytest.mark.parametrize(
    ("signed", "vr", "written"),
    [
        (True, "SS", -32768),
        (True, "US", 32768),
        (True, "SL", -32768),
        (True, "IS", "-32768"),
        (True, "OW", b"\x00\x80"),
        (True, "UN", b"\x00\x80"),
        (False, "US", 65535),
        (False, "SS", -1),
        (False, "DS", "65535.0"),
        (False, "OB", b"\xff\xff"),
    ],
)
def test_padding_is_recognised_whatever_its_vr_and_sign(signed, vr, written, limit):
    values, value, shown = padded(signed)
    tags: dict[str, Any] = {"PixelPaddingValue": (vr, written)}
    if limit:
        beside = value + 5 if signed else value - 5
        values[0] = beside
        tags["PixelPaddingRangeLimit"] = (("US", beside % 2**16), ("SS", (beside + 2**15) % 2**16 - 2**15))[not signed]
    actual = decode_dicom(dicom(values, bits=16, **tags), "voi")
    np.testing.assert_allclose(actual, shown, atol=1e-6)


@pytest.mark.parametrize("keyword", ["PixelPaddingRangeLimit", "PixelPaddingValue"])
@pytest.mark.parametrize("vr", ["US", "SS", "OB", "LO"])
def test_empty_padding_elements_are_none(keyword, vr):
    values, value, shown = padded(True)
    tags = {
        "PixelPaddingValue": ("SS", value),
        keyword: (vr, None if vr in ("US", "SS") else b"" if vr == "OB" else ""),
    }
    actual = decode_dicom(dicom(values, bits=16, **tags), "voi")
    if keyword == "PixelPaddingRangeLimit":
        np.testing.assert_allclose(actual, shown, atol=1e-6)
    else:
        wide = values.astype(float)
        np.testing.assert_allclose(actual, (wide - wide.min()) / np.ptp(wide), atol=1e-6)


def test_padding_beyond_the_stored_bits_is_recognised():
    values = picture()
    values[:9] = 0xFFFF
    shown = decode_dicom(dicom(values, PixelPaddingValue=0xFFFF), "voi")
    inside = picture()[9:].astype(float)
    assert shown[:9].max() == 0
    np.testing.assert_allclose(shown[9:], (inside - inside.min()) / np.ptp(inside), atol=1e-6)


def test_a_gray_value_is_not_taken_for_padding_of_another_width():
    expected = decode_dicom(dicom(picture()), "voi")
    np.testing.assert_array_equal(decode_dicom(dicom(picture(), PixelPaddingValue=("SS", -2000)), "voi"), expected)


def test_padding_that_is_no_number_is_none():
    expected = decode_dicom(dicom(picture()), "voi")
    np.testing.assert_array_equal(decode_dicom(dicom(picture(), PixelPaddingValue=("LO", "none")), "voi"), expected)


def test_a_padding_range_over_most_of_the_values_is_refused():
    with pytest.raises(BrokenImage, match="most of its values padding"):
        decode_dicom(dicom(picture(), PixelPaddingValue=("US", 0), PixelPaddingRangeLimit=("US", 3000)), "voi")


# Windows


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("center", "width"), [(40_000, 400), (-5_000, 400), (1e9, 1), (20_000, 20_000), (2000.5, 1e-3)]
)
def test_a_window_far_outside_the_values_is_named(function, center, width):
    data = dicom(picture(), WindowCenter=f"{center:g}", WindowWidth=f"{width:g}", VOILUTFunction=function)
    with pytest.raises(
        BrokenImage, match=r"window \(center .*\) that shows next to nothing of its values \(0 to 3972\)"
    ):
        decode_dicom(data, "voi")
    decode_dicom(data, "full")


@pytest.mark.parametrize(("center", "width"), [(2000, 4000), (500, 300), (3900, 400), (-1000, 3000)])
def test_a_window_over_part_of_the_values_is_used(center, width):
    data = dicom(picture(), WindowCenter=str(center), WindowWidth=str(width))
    dataset = dcmread(io.BytesIO(data))
    applied = apply_voi_lut(dataset.pixel_array, dataset) / 4095
    np.testing.assert_allclose(decode_dicom(data, "voi"), applied, atol=1e-5)


@pytest.mark.parametrize(
    "tags", [{"WindowCenter": ""}, {"WindowWidth": ""}, {"WindowWidth": "0"}, {"WindowWidth": "-5"}]
)
def test_a_window_that_is_none_is_passed_over(tags):
    actual = decode_dicom(dicom(picture(), **{"WindowCenter": "300", "WindowWidth": "100", **tags}), "voi")
    np.testing.assert_array_equal(actual, decode_dicom(dicom(picture()), "voi"))
