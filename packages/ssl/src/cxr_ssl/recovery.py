"""What to do about a collapse: the published remedies, one at a time."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxr_data.errors import BadInput
from cxr_ssl.diagnostics import Collapse
from cxr_ssl.plan import Plan, fewest_prototypes

MOST = 4
"""Remedies tried in one run; what still collapses then needs a person."""

SHARP = 0.03
"""The epsilon that the authors of SwAV advise where codes stay uniform."""


@dataclass(frozen=True)
class Remedy:
    """A change of the plan.

    Attributes:
        name: Its name in REMEDIES.
        changes: Fields of the plan and their new values.
        told: What changes, in words.
    """

    name: str
    changes: dict[str, Any]
    told: str

    def applied_to(self, at: dict[str, Any]) -> dict[str, Any]:
        """A place of a run, with this remedy among those that it follows."""
        return {**at, "changes": {**at["changes"], **self.changes}, "remedies": [*at["remedies"], self.name]}


def _sharper_codes(plan: Plan, _step: int) -> dict[str, Any]:
    return {"epsilon": SHARP} if plan.epsilon > SHARP else {}


def _longer_freeze(plan: Plan, step: int) -> dict[str, Any]:
    """As long again as before, and two epochs at least, from here on."""
    until = max(plan.freeze_steps, step) + max(plan.freeze_steps, 2 * plan.steps)
    return {"freeze_steps": min(until, plan.all_steps)} if plan.freeze_steps < plan.all_steps else {}


def _smaller_queue(plan: Plan, _step: int) -> dict[str, Any]:
    """Half of it, which fills anew."""
    return {"queue": plan.queue // 2} if plan.queue else {}


def _fewer_prototypes(plan: Plan, _step: int) -> dict[str, Any]:
    """Half of them, but not so few that the embedding can hide between them."""
    fewer = max(plan.prototypes // 2, fewest_prototypes(plan.embedding))
    return {"prototypes": fewer} if fewer < plan.prototypes else {}


def _lower_lr(plan: Plan, _step: int) -> dict[str, Any]:
    return {"lr": plan.lr / 3}


REMEDIES: dict[str, Callable[[Plan, int], dict[str, Any]]] = {
    "sharper codes": _sharper_codes,
    "longer freeze": _longer_freeze,
    "smaller queue": _smaller_queue,
    "fewer prototypes": _fewer_prototypes,
    "lower learning rate": _lower_lr,
}
"""Name -> the fields of the plan that it changes from a step on; none where it would change nothing."""

ORDER: dict[str, tuple[str, ...]] = {
    "uniform codes": ("sharper codes", "longer freeze", "smaller queue", "fewer prototypes"),
    "one prototype": ("longer freeze", "lower learning rate", "smaller queue", "fewer prototypes"),
    "low rank": ("lower learning rate", "longer freeze", "sharper codes"),
    "not finite": ("lower learning rate", "smaller queue"),
}
"""Kind of collapse -> remedies, best first."""


def answer(
    collapse: Collapse, plan: Plan, at: dict[str, Any], healthy: dict[str, Any], on_collapse: str, folder: Path
) -> tuple[Remedy | None, str]:
    """What to do about a collapsed epoch.

    Args:
        collapse: What went wrong.
        plan: The plan that led there.
        at: Place of the run.
        healthy: Last healthy state, which tells from where a mended run goes on.
        on_collapse: "stop", "warn" or "remedy".
        folder: The run's folder, for the message.

    Returns:
        The remedy to apply, if any, and what to tell.

    Raises:
        BadInput: The run is to stop, or nothing is left to try.
    """
    if on_collapse == "warn":
        return None, f"try {collapse.remedy}"
    if on_collapse == "remedy":
        back = healthy["at"]["epoch"]
        remedy = next_remedy(collapse, plan, at["remedies"], back * plan.steps)
        if remedy:
            return remedy, f"back to the end of epoch {back}, with {remedy.told}"
    tried, by_itself = at["remedies"], "let the run try remedies by itself with --on_collapse remedy, or "
    raise BadInput(
        "a run that tells images apart",
        f"{collapse.kind} in epoch {at['epoch'] + 1}{' after ' + ', '.join(tried) if tried else ''}: {collapse.found}",
        where=folder,
        do=f"--restart with {collapse.remedy}; or {'' if on_collapse == 'remedy' else by_itself}"
        "go on all the same with --on_collapse warn",
    )


def next_remedy(collapse: Collapse, plan: Plan, tried: Collection[str], step: int) -> Remedy | None:
    """The first remedy for a collapse that has not been tried and changes something.

    Args:
        collapse: What went wrong.
        plan: The plan that led there.
        tried: Names of the remedies that the run follows already.
        step: Step from which the run goes on.

    Returns:
        The remedy, or None when none is left or MOST have been tried.
    """
    if len(tried) >= MOST:
        return None
    for name in ORDER[collapse.kind]:
        changes = {} if name in tried else REMEDIES[name](plan, step)
        if changes:
            new = replace(plan, **changes)
            steps = [f"{field} {getattr(plan, field):.4g} -> {getattr(new, field):.4g}" for field in changes]
            return Remedy(name, changes, f"{name} ({', '.join(steps)})")
    return None
