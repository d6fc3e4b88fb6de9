import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cxr_common.training.state import MetricMeans, TrainState, keep_if_best

ALONE: Any = SimpleNamespace(
    num_processes=1, process_index=0, device=torch.device("cpu"), gather=lambda tensor: tensor, scaler=None
)


class Second:
    """The second of two processes, whose sums are three times those of this one in all."""

    num_processes, process_index, device = 2, 1, torch.device("cpu")

    def reduce(self, tensor: torch.Tensor, _how: str) -> torch.Tensor:
        return 3 * tensor


def new_state() -> TrainState[nn.Sequential]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    return TrainState(network, network, optimizer, ALONE, parts={"means": MetricMeans()})


def step(state: TrainState[nn.Sequential]) -> None:
    loss = state.network(torch.ones(5, 3)).square().mean()
    state.optimizer.zero_grad()
    loss.backward()
    state.optimizer.step()
    means: Any = state.parts["means"]
    means.add({"loss": loss})
    state.step += 1


def test_a_restored_state_continues_to_the_same_bits() -> None:
    whole = new_state()
    step(whole)
    whole.best = keep_if_best(None, whole.network, epoch=1, score=(0.5,), figures={"a": 1.0})
    saved = whole.state_dict()
    kept = copy.deepcopy(saved)
    step(whole)

    resumed = new_state()
    torch.rand(7)
    resumed.load_state_dict(saved)
    assert (resumed.step, resumed.best and resumed.best.score) == (1, (0.5,))
    step(resumed)
    for one, other in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    means: Any = resumed.parts["means"]
    assert means.means(ALONE) == whole.parts["means"].means(ALONE)  # type: ignore[attr-defined] - of MetricMeans
    for name, tensor in kept["network"].items():  # training on changes no saved copy
        assert torch.equal(saved["network"][name], tensor)


@pytest.mark.parametrize(
    ("scores", "kept"),
    [([(0.5,), (0.6,)], 2), ([(0.6,), (0.5,)], 1), ([(0.5, -1.0), (0.5, -1.0)], 1), ([None, None], 2)],
)
def test_the_better_epoch_is_kept_and_without_scores_the_last(scores, kept) -> None:
    best = None
    for epoch, score in enumerate(scores, start=1):
        best = keep_if_best(best, nn.Linear(1, 1), epoch=epoch, score=score, figures={})
    assert best is not None
    assert best.epoch == kept


def test_means_are_over_the_steps_of_all_processes() -> None:
    means = MetricMeans()
    for value in (1.0, 2.0, 6.0):
        means.add({"loss": torch.tensor(value)})
    assert means.means(ALONE) == {"loss": 3.0}
    other: Any = Second()
    assert means.means(other) == {"loss": 3.0}


def test_nan_counts_unless_it_may_be_undefined() -> None:
    means = MetricMeans()
    for value in (float("nan"), 2.0):
        means.add({"loss": torch.tensor(value), "share": torch.tensor(value)}, optional=["share"])
    actual = means.means(ALONE)
    assert actual["loss"] != actual["loss"]
    assert actual["share"] == 2.0
    means.add({"never": torch.tensor(float("inf"))}, optional=["never"])
    assert means.means(ALONE)["never"] != means.means(ALONE)["never"]
