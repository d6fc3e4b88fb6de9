import os
import pickle
import resource
import signal

import pytest
import torch

from cxr_common.training.resume import StopSignal, load_state, rng_state, save_state, set_rng_state
from cxr_data.errors import BadInput


def test_state_comes_back(tmp_path) -> None:
    assert load_state(tmp_path / "state.pt") is None
    rng = rng_state()
    save_state(tmp_path / "state.pt", {"w": torch.ones(3), "rng": rng, "epoch": 4, "best": {"score": (0.5, -1.0)}}, 1)
    drawn = torch.rand(3)
    state = load_state(tmp_path / "state.pt")
    assert state is not None
    set_rng_state(state["rng"])
    assert torch.equal(torch.rand(3), drawn)
    assert state["epoch"] == 4
    assert torch.equal(state["w"], torch.ones(3))


class Evil:
    def __reduce__(self):
        return os.system, ("echo run > /tmp/never",)


def test_nothing_is_unpickled(tmp_path) -> None:
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match="cannot be read"):
        load_state(tmp_path / "state.pt")
    (tmp_path / "state.pt").write_bytes(b"rubbish")
    with pytest.raises(BadInput, match="cannot be read"):
        load_state(tmp_path / "state.pt")


def test_a_file_of_other_tensors_is_refused(tmp_path) -> None:
    torch.save({"epoch": 4}, tmp_path / "state.pt")
    with pytest.raises(BadInput, match="another file of tensors"):
        load_state(tmp_path / "state.pt")


def test_state_says_of_how_many_processes_it_is(tmp_path) -> None:
    save_state(tmp_path / "state.pt", {"epoch": 4}, 8)
    assert load_state(tmp_path / "state.pt") == {"epoch": 4, "processes": 8}


@pytest.mark.parametrize(("number", "left_with"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_are_noted_within_the_block_only(number, left_with) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.received
        signal.raise_signal(number)
        assert stop.received == number
        with pytest.raises(left_with):
            stop.leave(stop.received)
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts_at_once(capfd) -> None:
    with StopSignal():
        signal.raise_signal(signal.SIGINT)
        assert "saves after this step and stops" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_state_that_no_disk_holds_leaves_the_one_before(tmp_path) -> None:
    """Files larger than a limit fail as on a full disk, from within torch's own archive."""
    save_state(tmp_path / "state.pt", {"step": 1}, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(BadInput, match="File too large") as caught:
            save_state(tmp_path / "state.pt", {"step": 2, "weights": torch.ones(3, 100_000)}, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.where == tmp_path
    state = load_state(tmp_path / "state.pt")
    assert state is not None
    assert state["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
