"""Messages and progress bars of commands other than training."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def wide_console() -> "Console":
    """The terminal; of what is no terminal 200 columns, so that tables do not wrap."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=200)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a model is: a bar with rate and time left on a terminal, else a line at the start and each 30 s.

    Yields:
        A function to call with the number of images just done.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stdout, highlight=False)
    began = said = time.perf_counter()
    done = 0
    if not console.is_terminal:
        say(title)

    def advance(images: int) -> None:
        nonlocal done, said
        done += images
        now = time.perf_counter()
        rate = done / max(now - began, 1e-9)
        if bar is not None:
            bar.update(task, completed=done, rate=f"{rate:.0f} images/s")
        elif now - said > 30 and done < total:
            said = now
            say(f"  {done} of {total} images, {rate:.0f} images/s, {(total - done) / rate:.0f} s left")

    if not console.is_terminal:
        bar = None
        yield advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(escape(title), total=total, rate="")
        yield advance
