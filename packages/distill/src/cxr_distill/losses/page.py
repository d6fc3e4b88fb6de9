"""The manual's page on losses, from the losses themselves: ``python -m cxr_distill.losses.page > docs/losses.md``."""

import dataclasses
import inspect
import sys

from cxr_distill.losses import LOSSES

FORMULAS = {"kd_plain": "kd", "kd_standardised": "kd", "pooled_cosine": "cosine", "simkd": "fitnets"}
"""Functions that have another name than their loss."""

HEAD = """# Distillation losses

Made from the code by `python -m cxr_distill.losses.page`. A loss is chosen with its weight, and its hyperparameters are
set beside it: `--loss dkd=1 --loss dkd.beta=4`. Several add up, next to the loss on labels (`--task_weight`).
"""


def page() -> str:
    """The page as Markdown: of every loss what it is for, its settings and its formula."""
    parts = [HEAD]
    for name, kind in LOSSES.items():
        function = getattr(sys.modules[kind.__module__], FORMULAS.get(name, name))
        formula = inspect.cleandoc(function.__doc__ or "").split("\nArgs:")[0].strip()
        values = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
        settings = ", ".join(f"`{name}.{key}={value}`" for key, value in values.items()) or "none"
        reads = ", ".join(f"`{feature}`" for feature in kind().features) or "logits"
        parts.append(
            f"## `{name}`\n\n{inspect.cleandoc(kind.__doc__ or '')}\n\n"
            f"- Tasks: {', '.join(kind.tasks)}; reads {reads}\n"
            f"- Usual weight {kind.weight:g}, beside a task weight of {kind.task_weight:g}\n"
            f"- Hyperparameters: {settings}\n\n{formula}\n"
        )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
