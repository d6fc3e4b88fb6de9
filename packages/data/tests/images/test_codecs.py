import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_data.images.codecs import deflate_decode, lzw_decode, packbits_decode
from cxr_data.images.header import BrokenImage


def strip(values: np.ndarray, compression: str) -> bytes:
    """The coded bytes of the single strip that libtiff makes of an image."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", compression=compression, strip_size=values.nbytes)
    buffer.seek(0)
    with Image.open(buffer) as image:
        (at,), (count,) = image.tag_v2[273], image.tag_v2[279]  # pyright: ignore[reportAttributeAccessIssue]
    return buffer.getvalue()[at : at + count]


DECODERS = {"tiff_lzw": lzw_decode, "packbits": packbits_decode, "tiff_adobe_deflate": deflate_decode}
IMAGES = {
    "noise": np.random.default_rng(0).integers(0, 256, (100, 120), np.uint8),
    "few levels": np.random.default_rng(1).integers(0, 3, (200, 120), np.uint8),
    "constant": np.full((300, 200), 9, np.uint8),
    "ramp": np.tile(np.arange(120, dtype=np.uint8), (100, 1)),
    "one byte": np.full((1, 1), 7, np.uint8),
}


@pytest.mark.parametrize("compression", list(DECODERS))
@pytest.mark.parametrize("name", list(IMAGES))
def test_what_libtiff_wrote_comes_back(compression, name):
    values = IMAGES[name]
    assert DECODERS[compression](strip(values, compression), values.nbytes) == values.tobytes()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300))
def test_lzw_of_short_strips_with_many_repeats(values):
    image = np.array(values, np.uint8)[None]
    assert lzw_decode(strip(image, "tiff_lzw"), image.nbytes) == image.tobytes()


@pytest.mark.parametrize("compression", list(DECODERS))
def test_a_strip_cut_or_of_another_length_is_refused(compression):
    values = IMAGES["noise"]
    coded, decode = strip(values, compression), DECODERS[compression]
    for at in np.linspace(1, len(coded) - 6, 50).astype(int):
        try:
            actual = decode(coded[:at], values.nbytes)
        except BrokenImage:
            continue
        assert len(actual) < values.nbytes  # PackBits has no end: the caller compares the length
    with pytest.raises(BrokenImage):
        decode(coded, values.nbytes - 1)


def test_a_code_that_no_entry_has_yet_is_refused():
    codes = [256, 65, 300, 257]
    bits = "".join(format(code, "09b") for code in codes)
    data = int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8))
    with pytest.raises(BrokenImage, match="cannot be decompressed"):
        lzw_decode(data, 1000)


def test_a_zlib_stream_without_its_checksum_and_one_that_is_a_bomb():
    data = zlib.compress(bytes(10**6))
    with pytest.raises(BrokenImage):
        deflate_decode(data[:-4], 10**6)
    with pytest.raises(BrokenImage):
        deflate_decode(data, 1000)
