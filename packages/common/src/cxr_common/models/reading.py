"""Files of weights, ours or foreign, as tensors by name; nothing in them is executed."""

import math
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cxr_data.errors import BadInput
from cxr_data.models.header import TRAINING_IMAGES

_SHOWN = 3  # names shown in a message


def refuse_unusable(state: Mapping[str, Tensor], like: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights that no network can be used with.

    Args:
        state: By name.
        like: The network's own, of which only the dtypes are looked at.
        path: Their file, for the message.

    Raises:
        BadInput: Integers where the network has decimals; infinite or undefined numbers, such as a ``running_var``
            that overflowed in half precision, with which a network answers the same for every image; a variance below
            0, or none in a layer; several matrices of zeros, as an interrupted copy leaves them.
    """

    def refuse(expected: str, found: str, do: str) -> BadInput:
        return BadInput(expected, found, where=path, do=do)

    zeros = []
    for name, tensor in state.items():
        if not tensor.is_floating_point() and name in like and like[name].is_floating_point():
            do = "give the weights before they were made integers"
            raise refuse("weights as numbers with decimals", f"{name} as {tensor.dtype}", do)
        if not (tensor.is_floating_point() and tensor.numel()):
            continue
        if tensor.is_meta:
            raise refuse("weights", f"{name} without its numbers", "save them from the network that has them")
        low, high = map(float, tensor.aminmax())  # one pass: every command that loads a network waits for this
        if not math.isfinite(low) or not math.isfinite(high):
            found = f"{int((~tensor.isfinite()).sum())} of the {tensor.numel()} numbers in {name} that are not"
            do = "save them in float32, not half precision; where training diverged, train again with a lower --lr"
            raise refuse("weights that are finite numbers", found, do)
        if name.endswith("running_var") and (low < 0 or high == 0):
            raise refuse("variances above 0", f"{low:.3g} in {name}", "copy the file again")
        # Tokens and tables of positions are zeros until they are trained.
        if tensor.ndim > 1 and name.endswith("weight") and low == high == 0:
            zeros.append(name)
    if len(zeros) > 1:
        raise refuse("weights", f"zeros alone in {shown(zeros)}", "copy the file again: it is incomplete")


def _read(path: Path) -> Any:
    do = "give a .safetensors file, or a .pth of tensors alone: torch.save(model.state_dict(), path)"
    if not path.is_file():
        raise BadInput("a weights file", "a folder" if path.is_dir() else "nothing there", where=path, do=do)
    try:
        if path.suffix == ".safetensors":
            return {name: tensor for name, tensor in load_file(path).items() if not name.startswith(TRAINING_IMAGES)}
        _refuse_damaged(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"a pickle that would run code ({needs[1]})" if needs else "no file of plain tensors"
        raise BadInput("a file of plain tensors", found, where=path, do=do) from error
    except (
        RuntimeError,
        zipfile.BadZipFile,
        ValueError,
        OSError,
        EOFError,
        LookupError,
        AttributeError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput("a readable weights file", f"a damaged one ({reason})", where=path, do=do) from error


def _refuse_damaged(path: Path) -> None:
    """Hold the parts of a PyTorch file, which is a zip archive, against their checksums: PyTorch does not."""
    if not zipfile.is_zipfile(path):
        return
    wrong = []
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        for part in parts:
            try:
                with archive.open(part) as file:
                    while file.read(2**20):
                        pass
            except zipfile.BadZipFile:
                wrong.append(part.filename)
    if wrong and 2 * len(wrong) < len(parts):  # else it was written without them
        raise ValueError(f"the checksum of {wrong[0]} is another")


def tensors_of(path: Path) -> dict[str, Tensor]:
    """All tensors in a weights file, nested names joined by dots; what an optimiser keeps is left out.

    Raises:
        BadInput: The file is missing, damaged, holds code or no tensors.
    """
    content = _read(path)
    tensors = dict(_flat(content)) if isinstance(content, Mapping) else {}
    if tensors:
        return tensors
    found = f"keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else type(content).__name__
    raise BadInput("a state dict (names to tensors)", found, where=path, do="save the network's state_dict() alone")


def _flat(content: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            small = value.is_floating_point() and value.itemsize == 1  # hardly an operation knows these
            yield f"{prefix}{key}", value.float() if small else value
        elif isinstance(value, Mapping) and "optim" not in str(key):
            yield from _flat(value, f"{prefix}{key}.")


def shown(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest
