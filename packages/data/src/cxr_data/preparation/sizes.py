"""The size at which images are stored for a network's input size."""

from cxr_data.errors import BadInput


def pixel_size_for(size: int) -> int:
    """Edge to store images at for a network input edge: space for crops, and a whole number of 32s.

    Args:
        size: Edge of the network's input, pixels.

    Returns:
        The next multiple of 32 at or above 1.14 · size (64 → 96, 96 → 128, 224 → 256).

    Raises:
        BadInput: Outside 16 to 3592 pixels.

    Examples:
        >>> from cxr_data import pixel_size_for
        >>> pixel_size_for(224)
        256
    """
    if not 16 <= size <= 3592:
        raise BadInput("an input edge of 16 to 3592 pixels", str(size), where="--size", do="choose for example 224")
    return -(-114 * size // 3200) * 32


def size_for(pixel_size: int) -> int:
    """The usual network input edge for images stored at an edge: the largest multiple of 32 with space for crops.

    Args:
        pixel_size: Edge of the stored images, pixels.

    Returns:
        Such that ``pixel_size_for(size) <= pixel_size`` (96 → 64, 256 → 224), at least 16.
    """
    return next((size for size in range(pixel_size // 32 * 32, 31, -32) if pixel_size_for(size) <= pixel_size), 16)
