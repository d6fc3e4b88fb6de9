from dataclasses import replace
from pathlib import Path

import pytest

from cxr_data.errors import BadInput
from cxr_ssl.diagnostics import Collapse
from cxr_ssl.plan import plan
from cxr_ssl.recovery import MOST, ORDER, REMEDIES, answer, next_remedy

PLAN = plan(800, batch_size=32, optimizer="adamw", epochs=40, prototypes=600, embedding=64, queue=8, freeze=100, lr=0.3)
AT = {"epoch": 4, "step": 0, "remedies": [], "changes": {}}


def collapse(kind: str) -> Collapse:
    return Collapse(kind, "found", "remedy")


@pytest.mark.parametrize("kind", ORDER)
def test_remedies_come_one_at_a_time_until_none_is_left(kind):
    at, now, seen = AT, PLAN, []
    while remedy := next_remedy(collapse(kind), now, at["remedies"], 50):
        at = remedy.applied_to(at)
        now = replace(PLAN, **at["changes"])
        seen.append(remedy.name)
    assert tuple(seen) == ORDER[kind][:MOST]
    assert set(seen) <= set(REMEDIES)
    assert at["remedies"] == seen
    assert AT["remedies"] == []  # the place gone back to stays as it was


def test_what_each_remedy_changes():
    def changed(name, of=PLAN, step=50):
        return REMEDIES[name](of, step)

    assert changed("sharper codes") == {"epsilon": 0.03}
    assert changed("sharper codes", replace(PLAN, epsilon=0.03)) == {}
    assert changed("longer freeze") == {"freeze_steps": 200}
    assert changed("longer freeze", step=400) == {"freeze_steps": 500}
    assert changed("longer freeze", replace(PLAN, freeze_steps=1000)) == {}
    assert changed("smaller queue") == {"queue": 4}
    assert changed("smaller queue", replace(PLAN, queue=0)) == {}
    assert changed("fewer prototypes") == {"prototypes": 300}
    assert changed("fewer prototypes", replace(PLAN, prototypes=300)) == {"prototypes": 256}
    assert changed("fewer prototypes", replace(PLAN, prototypes=256)) == {}
    assert changed("lower learning rate")["lr"] == pytest.approx(0.1)


def test_a_remedy_that_would_change_nothing_is_passed_over():
    remedy = next_remedy(collapse("uniform codes"), replace(PLAN, epsilon=0.02), [], 0)
    assert remedy is not None
    assert remedy.name == "longer freeze"
    assert remedy.told == "longer freeze (freeze_steps 100 -> 200)"


def test_the_answer_to_a_collapse():
    healthy = {"at": {**AT, "epoch": 3}}
    assert answer(collapse("low rank"), PLAN, AT, healthy, "warn", Path("runs/x")) == (None, "try remedy")
    remedy, told = answer(collapse("low rank"), PLAN, AT, healthy, "remedy", Path("runs/x"))
    assert remedy is not None
    assert remedy.changes == {"lr": pytest.approx(0.1)}
    assert told == "back to the end of epoch 3, with lower learning rate (lr 0.3 -> 0.1)"
    with pytest.raises(BadInput, match="low rank in epoch 5: found") as caught:
        answer(collapse("low rank"), PLAN, AT, {}, "stop", Path("runs/x"))
    assert "--on_collapse remedy" in str(caught.value.do)
    tried = {**AT, "remedies": list(ORDER["low rank"])}
    with pytest.raises(BadInput, match="after lower learning rate, longer freeze, sharper codes: found") as caught:
        answer(collapse("low rank"), PLAN, tried, healthy, "remedy", Path("runs/x"))
    assert "--on_collapse remedy" not in str(caught.value.do)
