"""Run by test_processes.py in each of two processes: a whole command, stopped by SIGTERM where told to."""

import os
import signal
import sys
from typing import Any

import torch

from cxr_distill import cli
from cxr_distill import train as loop

torch.set_num_threads(1)
stop_after, command, *sys.argv[1:] = int(sys.argv[1]), *sys.argv[2:]
train_step, done = loop.train_step, 0


def asks_one_process_to_stop(*arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
    global done
    done += 1
    if done == stop_after and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return train_step(*arguments, **options)


setattr(loop, "train_step", asks_one_process_to_stop)  # noqa: B010 - as for pyright a module has no such field
raise SystemExit(getattr(cli, command)())
