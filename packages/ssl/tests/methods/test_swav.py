from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cxr_data.errors import BadInput
from cxr_ssl.config import PretrainConfig, preset
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.method import lower_lr
from cxr_ssl.methods.swav import RECOVERIES, SwAVConfig, SwAVMethod, SwAVSettings
from cxr_ssl.plan import Plan, make_plan

IMAGENET = 1_281_167


def settled(images: int, batch_size: int = 32, epochs: int | None = None, **options: Any) -> tuple[SwAVSettings, Plan]:
    plan = make_plan(PretrainConfig(batch_size=batch_size, epochs=epochs), images)
    return SwAVConfig(**options).settings(images, plan), plan


def method_of(settings: SwAVSettings) -> SwAVMethod:
    backbone: Any = nn.Identity()
    backbone.network = SimpleNamespace(num_features=4)
    return SwAVMethod(backbone, settings, coded_crops=2)


@pytest.mark.parametrize("images", [2, 40, 800, 5000, 100_000, 2_000_000])
@pytest.mark.parametrize("epochs", [None, 1, 3, 400])
def test_every_automatic_setting_can_be_carried_out_without_a_warning(images, epochs):
    settings, plan = settled(images, epochs=epochs)
    assert 4 * settings.embedding < settings.prototypes <= 3000  # else the embedding hides where no prototype points
    assert 0 <= settings.freeze_steps <= plan.all_steps
    assert 0 <= settings.queue <= plan.steps
    method_of(settings).refuse_certain_collapse()
    if epochs is None:
        assert method_of(settings).warnings(plan) == []


def test_what_is_given_stays():
    settings, _ = settled(5000, embedding=32, prototypes=99, queue=0, freeze=117, epsilon=0.1)
    assert (settings.embedding, settings.prototypes, settings.queue, settings.freeze_steps) == (32, 99, 0, 117)
    assert settings.epsilon == 0.1
    assert settled(5000, freeze=0)[0].freeze_steps == 0


def test_the_published_setting_is_met_where_it_was_measured():
    settings, plan = settled(IMAGENET, batch_size=256, epochs=400)
    assert (settings.prototypes, settings.embedding, settings.freeze_steps) == (3000, 128, plan.steps)
    assert settings.queue * 256 + 256 == pytest.approx(4096, abs=256)
    assert settled(IMAGENET, batch_size=4096, epochs=800)[0].queue == 0


def test_the_published_queue_opens_when_the_paper_says():
    config = preset("paper-256")
    plan = make_plan(config, IMAGENET, processes=4)
    settings = config.swav.settings(IMAGENET, plan)
    assert (settings.prototypes, settings.embedding, settings.freeze_steps) == (3000, 128, 5005)
    queue = FeatureQueue(2, settings.queue, 1, 1)
    opened = None
    for step in range(15 * plan.steps - 3, 15 * plan.steps + 20):  # earlier steps leave it empty
        if queue.full and opened is None:
            opened = step
        if step >= settings.queue_from:
            queue.push(queue.embeddings.new_zeros(2, 1, 1))
    assert settings.queue * plan.global_batch == 3840
    assert opened == 15 * plan.steps + 15  # full after 15 batches of epoch 15, from 0
    assert method_of(settings).warnings(plan) == []


def test_what_must_collapse_is_refused_and_what_may_is_said():
    with pytest.raises(BadInput, match="100 prototypes and 128 dimensions") as caught:
        method_of(settled(5000, prototypes=100, embedding=128)[0]).refuse_certain_collapse()
    assert "--swav.prototypes 512" in str(caught.value.do)
    for options, said in (
        ({"prototypes": 200, "embedding": 64, "freeze": 500}, "200 prototypes"),
        ({"freeze": 10}, "fixed for only 10 steps"),
        ({"queue": 10, "queue_start": 20.0}, "never used"),
    ):
        settings, plan = settled(800, epochs=20, **options)
        assert [said in line for line in method_of(settings).warnings(plan)] == [True]


PLAN = make_plan(PretrainConfig(batch_size=32, epochs=40, lr=0.3), 800)
SETTINGS = SwAVConfig(prototypes=600, embedding=64, queue=8, freeze=100).settings(800, PLAN)


def test_what_each_recovery_changes():
    ways = {name: change for kind in RECOVERIES.values() for name, change in kind.items()}

    def changed(name, step=50, **others):
        return ways[name](PLAN, replace(SETTINGS, **others), step)

    assert changed("sharper codes") == {"epsilon": 0.03}
    assert changed("sharper codes", epsilon=0.03) == {}
    assert changed("longer freeze") == {"freeze_steps": 200}
    assert changed("longer freeze", step=400) == {"freeze_steps": 500}
    assert changed("longer freeze", freeze_steps=1000) == {}
    assert changed("smaller queue") == {"queue": 4}
    assert changed("smaller queue", queue=0) == {}
    assert changed("fewer prototypes") == {"prototypes": 300}
    assert changed("fewer prototypes", prototypes=300) == {"prototypes": 256}
    assert changed("fewer prototypes", prototypes=256) == {}
    assert lower_lr(PLAN, SETTINGS, 0)["lr"] == pytest.approx(0.1)


def test_other_settings_keep_the_queue_unless_they_have_another():
    torch.manual_seed(0)
    method = method_of(replace(SETTINGS, queue=2, embedding=4, prototypes=20))
    method.start(torch.device("cpu"), 3)
    for _ in range(2):
        method.queue.push(torch.rand(2, 3, 4))
    method.change(replace(method.settings, epsilon=0.1))
    assert method.queue.full
    method.change(replace(method.settings, queue=1, prototypes=12))
    assert method.queue.embeddings.shape == (2, 1, 3, 4)
    assert not method.queue.full
    assert method.module.used_prototypes == len(method.sums["nearest"]) == 12
