import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ssl.config import PretrainConfig, preset
from cxr_ssl.plan import make_plan


@settings(deadline=None, max_examples=200)
@given(
    images=st.integers(2, 2_000_000),
    batch_size=st.integers(2, 4096),
    processes=st.sampled_from([1, 2, 8]),
    optimizer=st.sampled_from(["adamw", "lars", "sgd"]),
    epochs=st.sampled_from([None, 1, 3, 400]),
)
def test_every_plan_can_be_carried_out(images, batch_size, processes, optimizer, epochs):
    plan = make_plan(PretrainConfig(batch_size=batch_size, optimizer=optimizer, epochs=epochs), images, processes)
    assert plan.global_batch % processes == 0
    assert plan.global_batch // processes >= 2
    assert plan.global_batch <= max(batch_size, 2 * processes)
    assert plan.steps >= 1
    assert plan.epochs >= 1
    assert epochs in (plan.epochs, None)
    assert 0 <= plan.warmup_steps < plan.steps * plan.epochs
    assert plan.lr > 0


def test_what_is_given_stays():
    plan = make_plan(PretrainConfig(batch_size=64, epochs=7, lr=0.123, warmup=0.5), 5000)
    assert (plan.epochs, plan.lr, plan.steps, plan.warmup_steps) == (7, 0.123, 78, 39)


def test_the_published_learning_rate_is_met_where_it_was_measured():
    assert make_plan(PretrainConfig(batch_size=256, optimizer="lars", epochs=400), 1_281_167).lr == pytest.approx(0.6)


@pytest.mark.parametrize(("images", "epochs", "steps"), [(40, 100, 100), (800, 24, 600), (100_000, 5, 15_625)])
def test_small_cohorts_get_steps_and_large_ones_epochs(images, epochs, steps):
    plan = make_plan(PretrainConfig(batch_size=32), images)
    assert (plan.epochs, plan.all_steps) == (epochs, steps)


IMAGENET = 1_281_167


def test_the_papers_schedule_value_by_value():
    """Learning rate of the published run of 200 epochs with a batch of 256."""
    plan = make_plan(preset("paper-256"), IMAGENET, processes=4)
    steps = IMAGENET // 256
    assert (plan.steps, plan.epochs, plan.global_batch) == (steps, 200, 256)
    total = 200 * steps
    for step in (*range(0, total, 997), total - 1):
        expected = 0.0006 + (0.6 - 0.0006) * (1 + math.cos(math.pi * step / total)) / 2
        assert plan.lr_at(step) == pytest.approx(expected, rel=1e-12)
        assert plan.weight_decay_at(step) == 1e-6
    assert plan.lr_at(0) == 0.6
    assert plan.lr_at(total) == pytest.approx(0.0006)


def test_a_warm_up_and_a_cosine_of_the_weight_decay():
    plan = make_plan(
        PretrainConfig(
            batch_size=64, optimizer="sgd", epochs=10, warmup=2.0, lr=1.0, weight_decay=0.04, weight_decay_end=0.4
        ),
        640,
    )
    assert plan.warmup_steps == 20
    assert plan.lr_at(0) == pytest.approx(0.05)
    assert plan.lr_at(10) == pytest.approx(0.525)
    assert plan.lr_at(20) == 1.0
    assert plan.lr_at(60) == pytest.approx(0.001 + 0.999 / 2)
    assert plan.weight_decay_at(0) == pytest.approx(0.04)
    assert plan.weight_decay_at(50) == pytest.approx(0.22)
    assert plan.weight_decay_at(100) == pytest.approx(0.4)


def test_a_batch_falls_into_equal_parts_for_processes_and_accumulation():
    plan = make_plan(PretrainConfig(batch_size=100, accumulate=3), 1000, 2)
    assert plan.global_batch == 96
    assert make_plan(PretrainConfig(batch_size=64, accumulate=2), 9).global_batch == 8
