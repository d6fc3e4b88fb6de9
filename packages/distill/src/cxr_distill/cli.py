"""Commands ``finetune`` and ``distill``."""

from cxr_data.command_line.command import run_command
from cxr_distill.config import DistillConfig, FinetuneConfig


def finetune() -> int:
    """Train a classifier on labels alone."""
    return run_command(_run, FinetuneConfig, prog="finetune")


def distill() -> int:
    """Distil a teacher into a small student."""
    return run_command(_run, DistillConfig, prog="distill")


def _run(config: FinetuneConfig | DistillConfig) -> None:
    from cxr_data.machine import is_main
    from cxr_distill import seeds, stages

    if isinstance(config, DistillConfig):
        models = seeds.each_seed(config, stages.distill)
    else:
        models = seeds.each_seed(config, stages.finetune)
    if is_main():
        print(stages.next_step(config, models[0]))
