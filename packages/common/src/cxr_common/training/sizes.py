"""The size of the images that a training takes."""

from collections.abc import Sequence

import torch

from cxr_common.models.zoo import build
from cxr_data.errors import BadInput
from cxr_data.machine import is_main
from cxr_data.sources import default_size


def training_size(size: int | None, data: Sequence[str] | str, architecture: str) -> int:
    """Edge of the network input: as asked for, else as the data were prepared for where the network takes that.

    Args:
        size: As asked for, pixels; None follows from the data.
        data: As for :func:`cxr_data.open_cohort`.
        architecture: Name of the network.

    Returns:
        ``size``; or :func:`cxr_data.sources.default_size` of the data; or, with a note, the largest multiple of 32
        below it that the network takes. Where it takes none, building it says why.

    >>> training_size(None, "phantom", "resnet18"), training_size(48, "phantom", "resnet18")
    (64, 48)
    """
    if size is not None:
        return size
    wanted = default_size(data)
    taken = next((edge for edge in (wanted, *range(wanted // 32 * 32, 31, -32)) if _takes(architecture, edge)), wanted)
    if taken != wanted and is_main():
        print(
            f"note: {architecture} does not take the {wanted} px of the data: it is trained at {taken} px", flush=True
        )
    return taken


def _takes(architecture: str, size: int) -> bool:
    try:
        with torch.device("meta"):
            build(architecture, 0, size=size)
    except BadInput:
        return False
    return True
