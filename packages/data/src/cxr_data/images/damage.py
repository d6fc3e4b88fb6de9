"""Damage inside a JPEG stream, looked for before others decode it: the same check as that of JPEG files."""

from cxr_data.images.jpeg import decode_jpeg


def check_jpeg(data: bytes) -> None:
    """Refuse a damaged JPEG stream (ITU T.81), baseline or progressive, of 8 bits; nothing is printed.

    Args:
        data: A JPEG file, or the stream in a DICOM fragment; what follows its end marker is ignored.

    Raises:
        BrokenImage: Damaged or cut.
    """
    decode_jpeg(data, least=1, part=True)
