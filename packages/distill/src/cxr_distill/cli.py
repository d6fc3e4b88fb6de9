"""Commands ``finetune`` and ``distill``."""

from cxr_data.command_line.command import run_command
from cxr_distill.config import DistillConfig, FinetuneConfig


def finetune() -> int:
    """Train a classifier on labels alone."""
    description = "Train a chest X-ray classifier on labels, from an SSL backbone, other weights or from scratch."
    return run_command(_run, FinetuneConfig, prog="finetune", description=description)


def distill() -> int:
    """Distil a teacher into a small student."""
    description = (
        "Train a small chest X-ray classifier to answer like its teachers, or, without labels, a backbone that gives "
        "the features of encoders."
    )
    return run_command(_run, DistillConfig, prog="distill", description=description)


def _run(config: FinetuneConfig | DistillConfig) -> None:
    from cxr_common.training.processes import is_main
    from cxr_distill import seeds, stages

    if isinstance(config, DistillConfig):
        models = seeds.each_seed(config, stages.distill)
    else:
        models = seeds.each_seed(config, stages.finetune)
    if is_main():
        print(stages.next_step(config, models[0]))
