"""Progress of training: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """Epoch and step bars with images/s and time left on a terminal; plain lines otherwise.

    Args:
        title: Name of the stage.
        epochs: Epochs in all.
        steps: Steps of an epoch.
        start_epoch: Epoch at which a resumed run starts.
        start_step: Step within that epoch.
        show: False in all processes but the main one.
    """

    def __init__(
        self,
        title: str,
        epochs: int,
        steps: int,
        *,
        start_epoch: int = 0,
        start_step: int = 0,
        show: bool = True,
    ):
        self.title, self.epochs, self.steps, self.show = title, epochs, steps, show
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.live = show and self.console.is_terminal
        self.epoch_number, self.step_number = start_epoch, start_step
        self._images, self._since, self._said = 0, time.perf_counter(), time.perf_counter()
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        """Start the clock and, on a terminal, the bars."""
        self._since = self._said = time.perf_counter()
        if self.live:
            self._bars = Bars(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=True,
            )
            self._all = self._bars.add_task(
                self.title,
                total=self.epochs * self.steps,
                completed=self.epoch_number * self.steps + self.step_number,
                note="",
            )
            self._now = self._bars.add_task("epoch", total=self.steps, completed=self.step_number, note="")
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars; the lines stay."""
        if self._bars is not None:
            self._bars.stop()

    @property
    def rate(self) -> float:
        """Images a second since the epoch began."""
        return self._images / max(time.perf_counter() - self._since, 1e-9)

    def step(self, images: int, **numbers: float) -> None:
        """Count one step.

        Args:
            images: Images it took, over all processes.
            **numbers: Shown beside the bar, and every half minute as a line where there is none.
        """
        self._images += images
        self.step_number += 1
        if self._bars is not None:
            shown = "  ".join([f"{self.rate:.0f} images/s", *(f"{k} {_short(v)}" for k, v in numbers.items())])
            self._bars.update(self._all, advance=1)
            self._bars.update(
                self._now,
                completed=self.step_number,
                description=f"epoch {self.epoch_number + 1}",
                note=shown,
            )
        elif self.show and time.perf_counter() - self._said > 30:
            left = (self.epochs - self.epoch_number) * self.steps - self.step_number
            seconds = left * images / max(self.rate, 1e-9)
            where = f"epoch {self.epoch_number + 1}/{self.epochs} step {self.step_number}/{self.steps}"
            self.say(f"{self.title}: {where}  {self.rate:.0f} images/s  {_duration(seconds)} left")

    def epoch(self, line: Mapping[str, Any]) -> None:
        """End an epoch with a line of its numbers."""
        numbers = "  ".join(f"{k} {_short(v)}" for k, v in line.items() if v is not None and k != "epoch")
        rate = f"  {self.rate:.0f} images/s" if self._images else ""
        self.epoch_number += 1
        self.say(f"{self.title}: epoch {self.epoch_number}/{self.epochs}  {numbers}{rate}")
        self.step_number, self._images, self._since = 0, 0, time.perf_counter()
        if self._bars is not None:
            self._bars.update(self._now, completed=0)

    def back_to(self, epoch: int) -> None:
        """Return to an earlier epoch, for a run that repeats some."""
        self.epoch_number = epoch
        if self._bars is not None:
            self._bars.update(self._all, completed=epoch * self.steps)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._said = time.perf_counter()
        if self.show:
            self.console.print(text, markup=False)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{rest:02d}s"
