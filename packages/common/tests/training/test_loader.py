import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_common.training.loader import epoch_order, global_batch, share
from cxr_data.cohorts.chunk_cache import Window


def test_every_image_once_in_equal_batches() -> None:
    order = epoch_order(103, seed=1, epoch=0, global_batch=10)
    assert order.shape == (10, 10)
    assert len(np.unique(order)) == 100
    assert (order == epoch_order(103, 1, 0, 10)).all()
    assert not (order == epoch_order(103, 1, 1, 10)).all()


def test_a_set_smaller_than_a_batch_is_repeated_to_fill_one() -> None:
    order = epoch_order(3, 0, 0, 8)
    assert order.shape == (1, 8)
    assert set(order.ravel()) == {0, 1, 2}


@given(chunks=st.integers(1, 40), images=st.integers(1, 30), window=st.integers(1, 50), seed=st.integers(0, 99))
def test_with_a_window_every_image_comes_once_and_few_chunks_are_in_use(chunks, images, window, seed) -> None:
    n = chunks * images
    chunk_of = np.random.default_rng(seed).permutation(np.repeat(np.arange(chunks) * 3, images))
    order = epoch_order(n, seed, 1, 1, Window(chunk_of, window)).ravel()
    assert sorted(order) == list(range(n))
    assert (order == epoch_order(n, seed, 1, 1, Window(chunk_of, window)).ravel()).all()
    met = chunk_of[order]
    first, last = np.full(chunks * 3, n), np.zeros(chunks * 3, int)
    np.minimum.at(first, met, np.arange(n))
    np.maximum.at(last, met, np.arange(n))
    in_use = [((first <= step) & (step <= last)).sum() for step in range(n)]
    assert max(in_use) <= window + 1


def test_a_window_mixes_chunks_anew_in_every_epoch() -> None:
    window = Window(np.repeat(np.arange(50), 20), 10)
    orders = [epoch_order(1000, 0, epoch, 20, window) for epoch in range(2)]
    assert not (orders[0] == orders[1]).all()
    for order in orders:
        met = [len(np.unique(window.chunk_of[batch])) for batch in order]
        assert np.median(met) > 7  # of at most 11
        arrivals = list(dict.fromkeys(window.chunk_of[order.ravel()].tolist()))
        assert arrivals != sorted(arrivals)


def test_shares_join_to_the_batch() -> None:
    batch = np.arange(12)
    assert (np.concatenate([share(batch, r, 3) for r in range(3)]) == batch).all()


@pytest.mark.parametrize(
    ("batch", "images", "processes", "expected"),
    [(64, 1000, 1, 64), (64, 40, 1, 40), (2, 1000, 4, 8), (65, 1000, 2, 64)],
)
def test_every_process_gets_the_same_share_of_at_least_two(batch, images, processes, expected) -> None:
    assert global_batch(batch, images, processes) == expected
