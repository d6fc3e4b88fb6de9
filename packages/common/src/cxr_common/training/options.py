"""Options that every training has; imports no torch."""

from dataclasses import dataclass, fields
from typing import Any

from cxr_data.command_line.command import config_dict


@dataclass(frozen=True)
class Conduct:
    """Place and conduct of a run, on which its result does not depend.

    Attributes:
        run: Name of the experiment; its stages lie in RUNS_DIR/RUN.
        runs_dir: Folder of all experiments.
        deterministic: On a GPU, train to the same bits every time, and fp32 without TF32; slower. A CPU does so anyway.
        augment_on_device: Render augmented views where the network is instead of on threads of the CPU, for a GPU that
            waits for them (see waiting_share in done.json).
        track: Experiment tracker: "tensorboard", "wandb", "mlflow" or "trackio", told curves, config, sample images and
            summary; it writes to "tracking" in the stage's folder, and nothing leaves the machine.
        restart: When the folder holds a run of another config or other inputs, set it aside and start anew.
        extend: When the folder holds the same run with fewer epochs, continue it from its last epoch.
        keep_state: Keep the training state of the finished run (about three times the weights), so that it can be
            extended later.
        workers: Threads that prepare batches; null chooses by the cores.
    """

    run: str = "quickstart"
    runs_dir: str = "runs"
    deterministic: bool = False
    augment_on_device: bool = False
    track: str | None = None
    restart: bool = False
    extend: bool = False
    keep_state: bool = False
    workers: int | None = None


def without_conduct(config: Conduct) -> dict[str, Any]:
    """A config as plain JSON types, without what its result does not depend on."""
    conduct = {field.name for field in fields(Conduct)}
    return {name: value for name, value in config_dict(config).items() if name not in conduct}
