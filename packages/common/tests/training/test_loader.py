import threading
import time

import numpy as np
import pytest

from cxr_common.training.loader import epoch_order, prefetch, share


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


def test_shares_join_to_the_batch() -> None:
    batch = np.arange(12)
    assert (np.concatenate([share(batch, r, 3) for r in range(3)]) == batch).all()


def test_prefetch_keeps_order_and_works_ahead_on_threads() -> None:
    threads = set()

    def make(step):
        threads.add(threading.get_ident())
        time.sleep(0.01 * (step % 3))
        return step

    assert list(prefetch(make, range(5, 25), workers=3)) == list(range(5, 25))
    assert threading.get_ident() not in threads


def test_a_fault_in_a_batch_reaches_the_loop() -> None:
    def make(step):
        if step == 2:
            raise ValueError("broken batch")
        return step

    with pytest.raises(ValueError, match="broken batch"):
        list(prefetch(make, range(5), workers=2))
