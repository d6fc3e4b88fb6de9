"""Run in each of two processes: a whole command; the second process gets a SIGTERM or a NaN where told to."""

import os
import signal
import sys
from typing import Any

import torch

from cxr_distill import cli
from cxr_distill import train as loop

torch.set_num_threads(1)
fault, command, *sys.argv[1:] = sys.argv[1:]
train_step, done = loop.train_step, 0


def with_fault_in_the_second_process(state: Any, batch: Any) -> dict[str, torch.Tensor]:
    """A signal after so many steps, or a loss that is NaN here alone."""
    global done
    done += 1
    metrics = train_step(state, batch)
    if os.environ.get("RANK") == "1":
        if fault == "nan":
            return {**metrics, "loss": torch.tensor(torch.nan)}
        if done == int(fault):
            signal.raise_signal(signal.SIGTERM)
    return metrics


setattr(loop, "train_step", with_fault_in_the_second_process)  # noqa: B010 - pyright knows no such module field
raise SystemExit(getattr(cli, command)())
