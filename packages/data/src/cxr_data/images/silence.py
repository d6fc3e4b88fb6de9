"""Discard the lines that C libraries print on damaged files: they name no file, as our own message does."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any


class _Silence:
    """State of the process: how many threads are in a block, and the descriptor standard error had before (or -1)."""

    lock = threading.Lock()
    entered = 0
    kept = -1
    replaced: Any = None


class _StillHeard(io.TextIOBase):
    """Stands in for ``sys.stderr`` meanwhile: what Python prints goes where standard error went before."""

    encoding = "utf-8"

    begun = threading.local()
    """The line that a thread has begun: ``print`` writes its end apart, and lines of threads must not mix."""

    def write(self, text: str, /) -> int:
        whole, end, self.begun.text = (getattr(self.begun, "text", "") + text).rpartition("\n")
        self._out(whole + end)
        return len(text)

    def flush(self) -> None:
        rest, self.begun.text = getattr(self.begun, "text", ""), ""
        self._out(rest)

    def _out(self, text: str) -> None:
        with _Silence.lock:
            os.write(2 if _Silence.kept < 0 else _Silence.kept, text.encode("utf-8", "backslashreplace"))

    def isatty(self) -> bool:
        with _Silence.lock:
            return os.isatty(2 if _Silence.kept < 0 else _Silence.kept)


_STILL_HEARD = _StillHeard()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Send file descriptor 2 of the process to nowhere while any thread is in such a block; Python is still heard.

    Threads do not wait for each other: the first one in redirects it, the last one out puts it back.
    """
    with _Silence.lock:
        if not _Silence.entered:
            _redirect()
        _Silence.entered += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.entered -= 1
            if not _Silence.entered and _Silence.kept >= 0:
                _put_back()


def _redirect() -> None:
    try:
        kept = os.dup(2)
    except OSError:  # a process without standard error has nothing to discard
        return
    with contextlib.suppress(OSError, AttributeError, ValueError):  # sys.stderr may be None, closed, or no file
        if sys.stderr.fileno() == 2:
            sys.stderr.flush()
            _Silence.replaced, sys.stderr = sys.stderr, _STILL_HEARD
    _Silence.kept = kept
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _put_back() -> None:
    os.dup2(_Silence.kept, 2)
    os.close(_Silence.kept)
    _Silence.kept = -1
    if sys.stderr is _STILL_HEARD:
        sys.stderr = _Silence.replaced
    _Silence.replaced = None
