import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cxr_common.training.resume import save_state
from cxr_common.training.session import WARM_UP, TrainingSession, open_training_run
from cxr_data.errors import BadInput


@pytest.fixture
def clock(monkeypatch) -> Any:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def new_session(tmp_path, device: str = "cpu") -> TrainingSession:
    run: Any = SimpleNamespace(
        path=tmp_path, state=tmp_path / "state.pt", main=False, truncate_log=lambda lines: None, tracker=None
    )
    accelerator = SimpleNamespace(num_processes=1, device=torch.device(device))
    state: Any = SimpleNamespace(epoch=0, step=0, images=0, seconds=0.0, accelerator=accelerator)
    return TrainingSession(run, state, epochs=9, steps=100, batch_size=8)


def test_speed_is_of_the_steps_after_the_first_and_tells_how_long_they_waited(tmp_path, clock) -> None:
    session = new_session(tmp_path)

    def batches(count: int) -> Any:
        for number in range(count):
            clock.now += 3.0 if session._steps >= WARM_UP else 1000.0  # waiting for it
            yield number

    for epoch in range(2):
        seen = []
        for batch in session.timed(batches(WARM_UP), lambda batch: torch.zeros(1)):
            seen.append(batch)
            clock.now += 1.0
            session.end_step(8, torch.tensor(0.5))
        assert seen == list(range(WARM_UP))
        clock.now += 500.0  # validation does not count
        if epoch == 0:
            assert session.speed() == {"training_images_per_second": None, "waiting_share": None}
    assert session.speed() == {"training_images_per_second": 2.0, "waiting_share": 0.75}


def test_a_loss_on_a_gpu_is_shown_once_it_has_arrived(tmp_path, monkeypatch) -> None:
    arrived = []

    class Event:
        def record(self) -> None:
            pass

        def query(self) -> bool:
            return bool(arrived)

    class OnGPU:
        device = torch.device("cuda")

        def __init__(self, value: float) -> None:
            self.value = value

        def detach(self) -> "OnGPU":
            return self

        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            assert (device, non_blocking) == ("cpu", True)
            return torch.tensor(self.value)

    monkeypatch.setattr("torch.cuda.Event", Event)
    session: Any = new_session(tmp_path)
    assert session._arrived(torch.tensor(2.0)) == {"loss": 2.0}  # on a CPU there is nothing to wait for
    assert session._arrived(OnGPU(1.0)) == {}
    assert session._arrived(OnGPU(2.0)) == {}  # the first is still on its way
    arrived.append(True)
    assert session._arrived(OnGPU(3.0)) == {"loss": 1.0}
    assert session._arrived(OnGPU(4.0)) == {"loss": 3.0}


@pytest.mark.parametrize("other", [0, 1])
def test_processes_of_different_trainings_are_refused(tmp_path, capsys, other) -> None:
    """As where CXR_CACHE_GB differs: each would shuffle in its own way. Unequal shares of a batch are only told."""
    accelerator: Any = SimpleNamespace(
        num_processes=2,
        is_main_process=True,
        device=torch.device("cpu"),
        gather=lambda own: torch.cat([own, own + other]),
        main_process_first=contextlib.nullcontext,
    )
    opened = open_training_run(tmp_path / "run", {"epochs": 1, "shuffle": 2}, {"batch_size": 9}, accelerator)
    if other:
        with pytest.raises(BadInput, match="the same training in all processes"), opened:
            pass
        assert not (tmp_path / "run").exists()
    else:
        with opened as run:
            assert not run.finished
        assert "--batch_size 9 is no multiple of 2 processes" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer", "another"])
def test_where_another_process_has_ended_the_others_say_so(tmp_path, said) -> None:
    run: Any = SimpleNamespace(path=tmp_path, state=tmp_path / "state.pt", main=True, truncate_log=lambda lines: None)
    accelerator = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    state: Any = SimpleNamespace(epoch=0, step=0, seconds=0.0, accelerator=accelerator)
    expected, match = (RuntimeError, said) if said == "another" else (BadInput, "one of them has ended")
    with pytest.raises(expected, match=match), TrainingSession(run, state, epochs=1, steps=1, batch_size=8):
        raise RuntimeError(said)


@pytest.mark.parametrize("batch_size", [8, 9])
def test_another_number_of_processes_may_resume_the_same_batches(tmp_path, capsys, batch_size) -> None:
    save_state(tmp_path / "state.pt", {"lines": 0, "batch_size": batch_size}, 2)
    loaded = []
    run: Any = SimpleNamespace(path=tmp_path, state=tmp_path / "state.pt", main=True, truncate_log=lambda lines: None)
    accelerator = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    state: Any = SimpleNamespace(epoch=0, step=0, seconds=0.0, accelerator=accelerator, load_state_dict=loaded.append)
    if batch_size == 8:
        assert TrainingSession(run, state, epochs=9, steps=100, batch_size=8).resumed
        assert "begun with 2 processes, resumed with 1" in capsys.readouterr().out
        assert loaded
    else:
        with pytest.raises(BadInput, match=r"a batch of 9 images, as before, found 8(?s:.*)resume with 2 processes"):
            TrainingSession(run, state, epochs=9, steps=100, batch_size=8)
