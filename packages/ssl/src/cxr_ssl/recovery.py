"""What to do about a collapse: the published changes of settings, one at a time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_data.errors import BadInput
from cxr_ssl.method import Change, Collapse
from cxr_ssl.plan import Plan
from cxr_ssl.state import TrainState

MOST = 4
"""Recoveries tried in one run; a run that still collapses then stops."""


@dataclass(frozen=True)
class Recovery:
    """A change of plan or settings.

    Attributes:
        name: Its name among the method's recoveries.
        changes: Fields and their new values.
        description: What changes, in words.
    """

    name: str
    changes: dict[str, Any]
    description: str

    def apply(self, state: TrainState) -> None:
        """Return to the last healthy epoch and continue from there with this change."""
        assert state.healthy is not None
        spent = {"images": state.images, "seconds": state.seconds}
        state.load_state_dict(state.healthy)
        for name, value in spent.items():
            setattr(state, name, value)
        state.recoveries = [*state.recoveries, self.name]
        state.follow(self.changes)


def react_to_collapse(
    collapse: Collapse, state: TrainState, on_collapse: str, folder: Path
) -> tuple[Recovery | None, str]:
    """Choose what to do about a collapsed epoch: stop, warn, or recover.

    Returns:
        The recovery to apply, if any, and what to say.

    Raises:
        BadInput: The run is to stop, or nothing is left to try.
    """
    if on_collapse == "warn":
        return None, f"try {collapse.advice}"
    tried = state.recoveries
    if on_collapse == "recover":
        assert state.healthy is not None
        back, ways = state.healthy["epoch"], state.method.recoveries
        recovery = next_recovery(ways[collapse.kind], state.plan, state.method.settings, tried, back * state.plan.steps)
        if recovery:
            return recovery, f"back to the end of epoch {back}, with {recovery.description}"
    by_itself = "" if on_collapse == "recover" else "let the run recover by itself with --on_collapse recover, or "
    raise BadInput(
        "a run that tells images apart",
        f"{collapse.kind} in epoch {state.epoch + 1}{' after ' + ', '.join(tried) if tried else ''}: "
        f"{collapse.evidence}",
        where=folder,
        do=f"--restart with {collapse.advice}; or {by_itself}continue all the same with --on_collapse warn",
    )


def next_recovery(
    ways: Mapping[str, Change], plan: Plan, settings: Any, tried: Collection[str], step: int
) -> Recovery | None:
    """The first change that has not been tried and changes something.

    Args:
        ways: Name -> change, best first.
        plan: The plan that led to the collapse.
        settings: The method's settings that led there.
        tried: Names of the recoveries that the run follows already.
        step: Step from which the run continues.

    Returns:
        The recovery, or None when none is left or MOST have been tried.
    """
    if len(tried) >= MOST:
        return None
    for name, change in ways.items():
        changes = {} if name in tried else change(plan, settings, step)
        if changes:
            before = {field: getattr(plan if hasattr(plan, field) else settings, field) for field in changes}
            words = [f"{field} {before[field]:.4g} -> {value:.4g}" for field, value in changes.items()]
            return Recovery(name, changes, f"{name} ({', '.join(words)})")
    return None
