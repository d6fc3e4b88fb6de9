"""Going on exactly where a run stopped."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch

from cxr_data.errors import BadInput
from cxr_data.files import whole_file

FORMAT = 2
"""Layout of the state; raised with every change to what a stage saves, so that an older file is refused."""


def save_state(path: str | Path, state: dict[str, Any], processes: int) -> None:
    """Write resume state whole or not at all.

    Args:
        path: Target, usually ``state.pt`` in the run folder.
        state: Tensors and plain Python values only: it is read back with ``weights_only=True``.
        processes: How many share the training; as many must go on with it.
    """
    with whole_file(path) as file:
        torch.save({**state, "format": FORMAT, "processes": processes}, file)


def load_state(path: str | Path, processes: int) -> dict[str, Any] | None:
    """Read resume state; None when there is none.

    Raises:
        BadInput: The file is damaged, of a version that saved something else, or of another number of processes.
    """
    if not Path(path).exists():
        return None
    anew = "delete it to start the stage anew"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged zip
        raise BadInput(
            "resume state written by this command",
            f"a file that cannot be read ({type(error).__name__})",
            where=path,
            do=anew,
        ) from error
    if not isinstance(state, dict) or state.pop("format", None) != FORMAT:
        raise BadInput("resume state of this version", "one of another", where=path, do=anew)
    if (before := state.pop("processes", processes)) != processes:
        do = f"go on with {before}, or {anew}"
        raise BadInput(f"resume state of {processes} processes", f"one of {before}", where=path, do=do)
    return state


def rng_state() -> dict[str, Any]:
    """State of torch's generators (dropout, drop path); everything else draws from (seed, epoch)."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class StopSignal:
    """Within the ``with`` block a SIGTERM is noted, so that the loop can save and leave between two steps."""

    def __init__(self) -> None:
        """Nothing is caught before the block is entered."""
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        """Catch SIGTERM."""
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Give SIGTERM back."""
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        self.requested = True
