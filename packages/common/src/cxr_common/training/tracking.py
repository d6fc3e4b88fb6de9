"""Experiment trackers, by way of Accelerate's: curves, config, sample images and the summary of a run.

Nothing leaves the machine unless the tracker's own environment variables say so. Imports nothing heavy.
"""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.errors import BadInput, require_known, require_modules

if TYPE_CHECKING:
    from torch import Tensor

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
IMAGES = 16
"""Sample images that are shown."""


def check_tracker(name: str | None) -> None:
    """Refuse a tracker that is unknown or not installed.

    Raises:
        BadInput: It is; the message names the package.
    """
    if name is None:
        return
    require_known("tracker", name, TRACKERS)
    require_modules([name], name, "the tracker", where=f"--track {name}")


class Tracker:
    """The tracker of one run; in its main process alone.

    Args:
        name: One of `TRACKERS`.
        folder: The run's folder; the tracker writes to ``tracking`` within it, unless its environment variables name
            another place.
        config: The run's config.

    Raises:
        BadInput: The tracker cannot be opened.
    """

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]):
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        self.name, place = name, folder / "tracking"
        place.mkdir(exist_ok=True)
        title = f"{folder.parent.name}-{folder.name}"
        try:
            self._tracker: Any = kind(title, **_kept_here(name, place))
            self._tracker.start()
            self._tracker.store_init_configuration(flat(config))
        except Exception as error:  # each raises its own kinds
            reason = " ".join(str(error).split())[:300]
            raise BadInput(
                f"a tracker {name} that opens", f"{type(error).__name__}: {reason}", where="--track"
            ) from error

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl to the curves; what is no number is left out."""
        step = line.get("epoch", 0)
        numbers = {key: float(value) for key, value in line.items() if _number(value) and key != "epoch"}
        self._tracker.log(numbers, step=step)

    def images(self, title: str, images: "Tensor") -> None:
        """Show some images, where the tracker can.

        Args:
            title: Their title.
            images: (B, 1, H, W), gray values in 0..255.
        """
        if not hasattr(self._tracker, "log_images"):
            return
        shown = images[:IMAGES].detach().cpu().clamp(0, 255).byte().numpy()
        self._tracker.log_images({title: shown if self.name == "tensorboard" else list(shown[:, 0])}, step=0)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Add the summary of the finished run: its numbers, and where text is taken all of it."""
        self._tracker.log({f"summary/{key}": float(value) for key, value in summary.items() if _number(value)})
        if self.name == "tensorboard":
            self._tracker.log({"summary": f"```\n{json.dumps(summary, indent=1)}\n```"})

    def close(self) -> None:
        """End the tracker; what it was told is kept."""
        self._tracker.finish()


def _kept_here(name: str, place: Path) -> dict[str, Any]:
    """Options of a tracker with which everything stays in a folder, unless its environment variables say otherwise."""
    if name == "wandb":
        return {"dir": os.environ.get("WANDB_DIR", str(place)), "mode": os.environ.get("WANDB_MODE", "offline")}
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow: Any = importlib.import_module(name)
        mlflow.set_tracking_uri(f"sqlite:///{place.resolve()}/mlflow.db")
    if name == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(place))
    return {"logging_dir": str(place)} if name == "tensorboard" else {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """A config as trackers take it: one level, names with dots, plain values."""
    values: dict[str, str | int | float | bool] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
