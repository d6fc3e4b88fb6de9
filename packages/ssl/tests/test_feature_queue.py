import torch

from cxr_ssl.feature_queue import FeatureQueue


def batch(value: float) -> torch.Tensor:
    return torch.full((2, 3, 4), value)


def stored(queue: FeatureQueue) -> list[float]:
    return sorted(queue.embeddings[0, :, 0, 0].tolist())


def test_it_keeps_the_newest_batches_and_is_full_only_then():
    queue = FeatureQueue(2, 3, 3, 4)
    fullness = []
    for value in range(1, 6):
        queue.push(batch(value))
        fullness.append(queue.full)
    assert fullness == [False, False, True, True, True]
    assert stored(queue) == [3.0, 4.0, 5.0]


def test_crops_do_not_mix_and_gradients_stay_out():
    queue = FeatureQueue(2, 1, 3, 4)
    embeddings = torch.stack([torch.ones(3, 4), 2 * torch.ones(3, 4)]).requires_grad_()
    queue.push(embeddings)
    assert not queue.embeddings.requires_grad
    prototypes = torch.eye(4)[:2].requires_grad_()
    scores = queue.scores(prototypes)
    assert scores.shape == (2, 3, 2)
    assert not scores.requires_grad
    assert (scores[0] == 1).all()
    assert (scores[1] == 2).all()


def test_a_queue_of_no_batches_is_never_full():
    queue = FeatureQueue(2, 0, 3, 4)
    queue.push(batch(1.0))
    assert not queue.full
    assert queue.pushed == 0
