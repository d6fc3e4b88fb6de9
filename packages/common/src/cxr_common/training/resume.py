"""Saving and loading resume state, and noticing signals that ask a run to stop."""

import contextlib
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self

import torch

from cxr_data.errors import BadInput
from cxr_data.files import whole_file


def save_state(path: str | Path, state: dict[str, Any], processes: int) -> None:
    """Write resume state whole or not at all.

    Args:
        path: Target, usually ``state.pt`` in the run folder.
        state: Tensors and plain Python values only: it is read back with ``weights_only=True``.
        processes: Number of processes of the training.
    """
    with whole_file(path) as file:
        torch.save({**state, "processes": processes}, file)


def load_state(path: str | Path) -> dict[str, Any] | None:
    """Read resume state, "processes" among it; None when there is none.

    Raises:
        BadInput: The file is damaged.
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
    if not isinstance(state, dict) or "processes" not in state:
        raise BadInput("resume state written by this command", "another file of tensors", where=path, do=anew)
    return state


def rng_state() -> dict[str, Any]:
    """State of torch's generators (dropout, stochastic depth); all other draws depend on (seed, epoch) alone."""
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
    """Within the ``with`` block the first SIGTERM or SIGINT (Ctrl-C) is noted, so that the loop can save and leave.

    A second SIGINT interrupts at once.

    Attributes:
        received: Number of the signal; 0 for none.
    """

    def __init__(self) -> None:
        """Nothing is caught before the block is entered."""
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Catch the signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def leave(self, number: int) -> NoReturn:
        """End the run after it was saved.

        Args:
            number: The signal that asked for it.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SystemExit: 143, after SIGTERM.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        if number == signal.SIGINT:  # a step may take minutes; a handler may not use streams that it interrupts
            with contextlib.suppress(OSError):  # nobody may be there to read it
                os.write(2, b"\nsaves after this step and stops; Ctrl-C again stops at once\n")
        self.received = max(self.received, number)
