import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ssl.rules import plan


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
        freeze=1.5,
        lr=0.123,
    )
    assert (found.epochs, found.embedding, found.prototypes, found.queue, found.lr) == (7, 32, 99, 0, 0.123)
    assert found.steps == 78
    assert found.freeze_steps == 117
    assert plan(5000, batch_size=64, optimizer="sgd", freeze=0.0).freeze_steps == 0


def test_the_published_setting_is_met_where_it_was_measured():
    found = plan(1_281_167, batch_size=256, optimizer="lars", epochs=400)
    assert (found.prototypes, found.embedding, found.lr) == (3000, 128, pytest.approx(0.6))
    assert found.queue * 256 + 256 == pytest.approx(4096, abs=256)
    assert found.freeze_steps == 5004
    assert plan(1_281_167, batch_size=4096, optimizer="lars", epochs=800).queue == 0


def test_the_quick_start_is_quick():
    found = plan(1400, batch_size=32, optimizer="adamw")
    assert (found.epochs, found.steps, found.prototypes, found.embedding, found.queue) == (2, 43, 300, 64, 0)
    assert found.freeze_steps == 43
