"""Run by test_processes.py in each of two processes: a whole pretraining, stopped by SIGTERM where told to."""

import os
import signal
import sys
from typing import Any

import torch

from cxr_data.command_line.command import parse
from cxr_ssl import train as loop
from cxr_ssl.config import PretrainConfig
from cxr_ssl.step import train_step

torch.set_num_threads(1)
config_file, stop_after = sys.argv[1], int(sys.argv[2])
done: list[Any] = []


def asks_one_process_to_stop(*arguments: Any, **options: Any) -> Any:
    done.append(train_step(*arguments, **options))
    if len(done) == stop_after and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return done[-1]


if stop_after:
    setattr(loop, "train_step", asks_one_process_to_stop)  # noqa: B010 - it is imported there
loop.pretrain(parse(PretrainConfig, prog="p", argv=["--config", config_file]))
