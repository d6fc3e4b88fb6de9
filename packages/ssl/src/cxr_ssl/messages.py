"""What ``ssl-pretrain`` prints: an introduction, the linear probe before training, and what was written."""

from pathlib import Path
from typing import TYPE_CHECKING

from cxr_common.training.state import Best
from cxr_data.cohorts.cohort import Cohort
from cxr_data.command_line.suggestions import suggest, typed
from cxr_ssl.config import PretrainConfig
from cxr_ssl.method import Method
from cxr_ssl.plan import Plan

if TYPE_CHECKING:
    from accelerate import Accelerator

SHOWN = ("loss", "code_entropy", "prototypes_in_use", "rank", "probe_auroc", "knn_auroc")
"""Numbers of an epoch that are printed; metrics.jsonl has all."""


def introduction(config: PretrainConfig, cohort: Cohort, method: Method, plan: Plan, accelerator: "Accelerator") -> str:
    """What is about to happen, with everything that was chosen automatically."""
    crops = config.crops
    return (
        f"{config.method} with {config.architecture} on {len(cohort.rows('train'))} training images of {cohort.name}, "
        f"{crops.global_count} x {config.input_size} + {crops.local_count} x {config.local_size} px, "
        f"{method.description()}, {plan.all_steps} steps of {plan.global_batch}, {config.optimizer} {plan.lr:.2g}, "
        f"{accelerator.device} {accelerator.mixed_precision.replace('no', 'fp32')}"
    )


def probe_sentence(figures: dict[str, float | None]) -> str:
    """The linear probe before training."""
    if figures["probe_auroc"] is None:
        return "no linear probe: a split lacks labels or one of the classes"
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)


def farewell(config: PretrainConfig, cohort: Cohort, before: float | None, best: Best, written: list[Path]) -> str:
    """What was written, and the next command to type."""
    lines = [f"wrote {path}" for path in written]
    after = best.figures["probe_auroc"]
    if before is not None and after is not None:
        figures = f"AUROC {before:.4f} before, {after:.4f} after epoch {best.epoch}"
        lines.insert(0, f"linear probe on validation images: {figures}")
    place = {"run": config.run, "runs_dir": config.runs_dir, "size": config.size}
    options = {"architecture": config.architecture, "start": str(written[0])}
    if cohort.has_labels("train", "val"):
        lines.append(suggest("finetune", data=config.data, **place, **options))
    else:
        command = typed("finetune", data="LABELLED", **options)
        lines.append(f"a classifier begins with these weights and a cohort with labels:  {command}")
    return "\n".join(lines)
