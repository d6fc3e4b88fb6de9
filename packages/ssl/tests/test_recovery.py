from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr_data.errors import BadInput
from cxr_ssl.config import PretrainConfig
from cxr_ssl.method import Collapse
from cxr_ssl.methods import byol, dino, swav
from cxr_ssl.plan import Plan, make_plan
from cxr_ssl.recovery import MOST, next_recovery, react_to_collapse

PLAN = make_plan(PretrainConfig(batch_size=32, epochs=40, lr=0.3), 800)
CONFIGS = {
    "swav": (swav.SwAVConfig(prototypes=600, embedding=64, queue=8, freeze=100), swav.RECOVERIES),
    "dino": (dino.DINOConfig(), dino.RECOVERIES),
    "byol": (byol.BYOLConfig(), byol.RECOVERIES),
}
KINDS = [(method, kind) for method, (_, recoveries) in CONFIGS.items() for kind in recoveries]


def changed(settings: Any, changes: dict[str, Any]) -> Any:
    return replace(settings, **{name: value for name, value in changes.items() if hasattr(settings, name)})


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_recoveries_come_one_at_a_time_until_none_is_left(method, kind):
    config, recoveries = CONFIGS[method]
    plan, settings, tried = PLAN, config.settings(800, PLAN), []
    while recovery := next_recovery(recoveries[kind], plan, settings, tried, 50):
        plan, settings = changed(plan, recovery.changes), changed(settings, recovery.changes)
        tried.append(recovery.name)
    assert tried == list(recoveries[kind])[:MOST]
    assert (plan, settings) != (PLAN, config.settings(800, PLAN))


def test_a_recovery_that_would_change_nothing_is_passed_over():
    settings = replace(CONFIGS["swav"][0].settings(800, PLAN), epsilon=0.02)
    recovery = next_recovery(swav.RECOVERIES["uniform codes"], PLAN, settings, [], 0)
    assert recovery is not None
    assert recovery.name == "longer freeze"
    assert recovery.description == "longer freeze (freeze_steps 100 -> 200)"


def test_the_answer_to_a_collapse():
    collapse = Collapse("low rank", "evidence", "advice")
    method = SimpleNamespace(recoveries=swav.RECOVERIES, settings=CONFIGS["swav"][0].settings(800, PLAN))
    state: Any = SimpleNamespace(epoch=4, recoveries=[], healthy={"epoch": 3}, plan=PLAN, method=method)
    assert isinstance(state.plan, Plan)
    assert react_to_collapse(collapse, state, "warn", Path("runs/x")) == (None, "try advice")
    recovery, said = react_to_collapse(collapse, state, "recover", Path("runs/x"))
    assert recovery is not None
    assert recovery.changes == {"lr": pytest.approx(0.1)}
    assert said == "back to the end of epoch 3, with lower learning rate (lr 0.3 -> 0.1)"
    with pytest.raises(BadInput, match="low rank in epoch 5: evidence") as caught:
        react_to_collapse(collapse, state, "stop", Path("runs/x"))
    assert "--on_collapse recover" in str(caught.value.do)
    state.recoveries = list(swav.RECOVERIES["low rank"])
    with pytest.raises(BadInput, match="after lower learning rate, longer freeze, sharper codes: evidence") as caught:
        react_to_collapse(collapse, state, "recover", Path("runs/x"))
    assert "--on_collapse recover" not in str(caught.value.do)
