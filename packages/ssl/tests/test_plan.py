import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_data.errors import BadInput
from cxr_ssl.config import preset
from cxr_ssl.feature_queue import FeatureQueue
from cxr_ssl.plan import misgivings, plan, refuse_hopeless
from cxr_ssl.pretrain import planned


@settings(deadline=None, max_examples=200)
@given(
    images=st.integers(2, 2_000_000),
    batch_size=st.integers(2, 4096),
    processes=st.sampled_from([1, 2, 8]),
    optimizer=st.sampled_from(["adamw", "lars", "sgd"]),
    epochs=st.sampled_from([0, 1, 3, 400]),
)
def test_every_plan_can_be_carried_out(images, batch_size, processes, optimizer, epochs):
    found = plan(images, batch_size=batch_size, optimizer=optimizer, processes=processes, epochs=epochs)
    assert found.global_batch % processes == 0
    assert found.global_batch // processes >= 2
    assert found.global_batch <= max(batch_size, 2 * processes)
    assert found.steps >= 1
    assert found.epochs >= 1
    assert found.epochs == epochs or epochs == 0
    refuse_hopeless(found)
    assert found.prototypes > 4 * found.embedding  # else the embedding hides where no prototype points
    assert found.prototypes <= 3000
    assert 0 <= found.freeze_steps <= found.steps * found.epochs
    assert 0 <= found.warmup_steps < found.steps * found.epochs
    assert 0 <= found.queue <= found.steps
    assert found.lr > 0


def test_what_is_given_stays():
    found = plan(
        5000,
        batch_size=64,
        optimizer="adamw",
        epochs=7,
        embedding=32,
        prototypes=99,
        queue=0,
        freeze=117,
        lr=0.123,
    )
    assert (found.epochs, found.embedding, found.prototypes, found.queue, found.lr) == (7, 32, 99, 0, 0.123)
    assert found.steps == 78
    assert found.freeze_steps == 117
    assert plan(5000, batch_size=64, optimizer="sgd", freeze=0).freeze_steps == 0


def test_the_published_setting_is_met_where_it_was_measured():
    found = plan(1_281_167, batch_size=256, optimizer="lars", epochs=400)
    assert (found.prototypes, found.embedding, found.lr) == (3000, 128, pytest.approx(0.6))
    assert found.queue * 256 + 256 == pytest.approx(4096, abs=256)
    assert found.freeze_steps == 5004
    assert plan(1_281_167, batch_size=4096, optimizer="lars", epochs=800).queue == 0


def test_the_quick_start_is_quick():
    found = plan(1400, batch_size=32, optimizer="adamw")
    assert (found.epochs, found.steps, found.prototypes, found.embedding, found.queue) == (14, 43, 300, 64, 0)
    assert found.freeze_steps == 301


@pytest.mark.parametrize(("images", "epochs", "steps"), [(40, 100, 100), (800, 24, 600), (100_000, 5, 15_625)])
def test_small_cohorts_get_steps_and_large_ones_epochs(images, epochs, steps):
    found = plan(images, batch_size=32, optimizer="adamw")
    assert (found.epochs, found.all_steps) == (epochs, steps)


IMAGENET = 1_281_167


def test_the_papers_schedule_value_by_value():
    """Learning rate, freeze and queue of the published run of 200 epochs with a batch of 256."""
    found = planned(preset("paper-256"), IMAGENET, processes=4)
    steps = IMAGENET // 256
    assert (found.steps, found.epochs, found.global_batch) == (steps, 200, 256)
    assert (found.prototypes, found.embedding, found.epsilon) == (3000, 128, 0.05)
    total = 200 * steps
    for step in (*range(0, total, 997), total - 1):
        expected = 0.0006 + (0.6 - 0.0006) * (1 + math.cos(math.pi * step / total)) / 2
        assert found.lr_at(step) == pytest.approx(expected, rel=1e-12)
        assert found.weight_decay_at(step) == 1e-6
    assert found.lr_at(0) == 0.6
    assert found.lr_at(total) == pytest.approx(0.0006)
    assert found.freeze_steps == 5005
    queue = FeatureQueue(2, found.queue, 1, 1)
    opened = None
    for step in range(15 * steps - 3, 15 * steps + 20):  # earlier steps leave it empty
        if queue.full and opened is None:
            opened = step
        if step >= found.queue_from:
            queue.push(queue.embeddings.new_zeros(2, 1, 1))
    assert found.queue * found.global_batch == 3840
    assert opened == 15 * steps + 15  # full after 15 batches of epoch 15, from 0
    assert misgivings(found) == []


def test_a_warm_up_and_a_cosine_of_the_weight_decay():
    found = plan(
        640, batch_size=64, optimizer="sgd", epochs=10, warmup=2.0, lr=1.0, weight_decay=0.04, weight_decay_end=0.4
    )
    assert found.warmup_steps == 20
    assert found.lr_at(0) == pytest.approx(0.05)
    assert found.lr_at(10) == pytest.approx(0.525)
    assert found.lr_at(20) == 1.0
    assert found.lr_at(60) == pytest.approx(0.001 + 0.999 / 2)
    assert found.weight_decay_at(0) == pytest.approx(0.04)
    assert found.weight_decay_at(50) == pytest.approx(0.22)
    assert found.weight_decay_at(100) == pytest.approx(0.4)


def test_a_batch_falls_into_equal_parts_for_processes_and_accumulation():
    found = plan(1000, batch_size=100, optimizer="adamw", processes=2, accumulate=3)
    assert found.global_batch == 96
    assert plan(9, batch_size=64, optimizer="adamw", accumulate=2).global_batch == 8


def test_what_must_collapse_is_refused_and_what_may_is_said():
    with pytest.raises(BadInput, match="100 prototypes and 128 dimensions") as caught:
        refuse_hopeless(plan(5000, batch_size=64, optimizer="adamw", prototypes=100, embedding=128))
    assert "--prototypes 512" in str(caught.value.do)
    few = plan(5000, batch_size=64, optimizer="adamw", epochs=10, prototypes=200, embedding=64, freeze=500)
    assert ["200 prototypes" in line for line in misgivings(few)] == [True]
    short = plan(800, batch_size=32, optimizer="adamw", epochs=20, freeze=10)
    assert ["fixed for only 10 steps" in line for line in misgivings(short)] == [True]
    late = plan(800, batch_size=32, optimizer="adamw", epochs=20, queue=10, queue_start=20.0)
    assert ["never used" in line for line in misgivings(late)] == [True]


@pytest.mark.parametrize("images", [40, 800, 5000, 100_000])
def test_nothing_is_wrong_with_what_is_chosen_automatically(images):
    found = plan(images, batch_size=32, optimizer="adamw")
    refuse_hopeless(found)
    assert misgivings(found) == []
