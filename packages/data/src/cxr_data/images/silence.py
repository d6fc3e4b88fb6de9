"""What C libraries print of a damaged file goes nowhere: our message names the file, theirs do not."""

import contextlib
import os
import threading
from collections.abc import Iterator


class _Silence:
    """Blocks that are entered at this moment, and where standard error went before."""

    lock = threading.Lock()
    entered = 0
    kept = -1


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Send standard error of the whole process to nowhere while any thread is in such a block.

    Threads do not wait for each other: the first one in redirects it, the last one out puts it back.
    """
    with _Silence.lock:
        if not _Silence.entered:
            with contextlib.suppress(OSError):  # a process without standard error has nothing to hush
                _Silence.kept = os.dup(2)
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), 2)
        _Silence.entered += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.entered -= 1
            if not _Silence.entered and _Silence.kept >= 0:
                os.dup2(_Silence.kept, 2)
                os.close(_Silence.kept)
                _Silence.kept = -1
