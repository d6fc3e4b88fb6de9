"""What a person is told while a run trains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_data.cohort import Cohort
from cxr_data.command import option
from cxr_ssl.config import PretrainConfig
from cxr_ssl.plan import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

SHOWN = ("loss", "code_entropy", "prototypes_in_use", "rank", "probe_auroc")
"""Numbers of an epoch that a person is shown; metrics.jsonl has all."""


def introduction(config: PretrainConfig, cohort: Cohort, plan: Plan, accelerator: "Accelerator") -> str:
    """What is about to happen, with everything that was chosen automatically."""
    crops = config.crops
    return (
        f"{config.architecture} on {len(cohort.rows('train'))} training images of {cohort.name}, "
        f"{crops.global_count} x {config.size} + {crops.local_count} x {config.local_size} px, "
        f"K {plan.prototypes}, D {plan.embedding}, queue {plan.queue}, frozen {plan.freeze_steps} of "
        f"{plan.all_steps} steps of {plan.global_batch}, {config.optimizer} {plan.lr:.2g}, "
        f"{accelerator.device} {accelerator.mixed_precision.replace('no', 'fp32')}"
    )


def probe_sentence(figures: dict[str, float | None]) -> str:
    """The linear probe before training."""
    if figures["probe_auroc"] is None:
        return "no linear probe: a split lacks labels or one of the classes"
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def farewell(config: PretrainConfig, first: float | None, best: dict[str, Any], written: list[Path]) -> str:
    """What was written, and the next command to type."""
    lines = [f"wrote {path}" for path in written]
    if first is not None and best["score"] is not None:
        found = f"AUROC {first:.4f} before, {best['score']:.4f} after epoch {best['epoch']}"
        lines.insert(0, f"linear probe on validation images: {found}")
    data = option("data", config.data, "phantom")
    return "\n".join([*lines, f"next:  uv run distill --run {config.run}{data}"])
