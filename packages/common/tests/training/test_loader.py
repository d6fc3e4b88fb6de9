import numpy as np
import pytest

from cxr_common.training.loader import epoch_order, global_batch, share


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


@pytest.mark.parametrize(
    ("batch", "images", "processes", "expected"),
    [(64, 1000, 1, 64), (64, 40, 1, 40), (2, 1000, 4, 8), (65, 1000, 2, 64)],
)
def test_every_process_gets_the_same_share_of_at_least_two(batch, images, processes, expected) -> None:
    assert global_batch(batch, images, processes) == expected
