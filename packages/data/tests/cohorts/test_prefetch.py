import threading
import time

import pytest

from cxr_data.cohorts.prefetch import prefetch


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
