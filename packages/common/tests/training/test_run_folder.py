import json
import os
from dataclasses import dataclass

import pytest

from cxr_common.training.run_folder import experiment, open_run
from cxr_data.errors import BadInput


def test_same_identity_goes_on_another_is_refused(tmp_path) -> None:
    folder = tmp_path / "runs" / "a"
    run = open_run(folder, {"config": {"lr": 0.1}, "cohort": "x"}, {"lr": 0.1})
    run.log({"epoch": 1, "loss": 0.5})
    run.log({"epoch": 2, "loss": 0.4})
    run.close()
    again = open_run(folder, {"config": {"lr": 0.1}, "cohort": "x"}, {"lr": 0.1})
    assert not again.finished
    again.truncate_log(1)
    assert again.lines() == [{"epoch": 1, "loss": 0.5}]
    again.finish({"ok": True})
    again.close()
    with pytest.raises(BadInput, match=r"config\.lr was 0\.1, now 0\.2"):
        open_run(folder, {"config": {"lr": 0.2}, "cohort": "x"}, {"lr": 0.2})
    assert (folder / "done.json").exists()


def test_restart_sets_another_run_aside_and_keeps_it(tmp_path) -> None:
    folder = tmp_path / "a"
    first = open_run(folder, {"lr": 1}, {"lr": 1})
    first.finish({})
    first.close()
    second = open_run(folder, {"lr": 2}, {"lr": 2}, restart=True)
    assert not second.finished
    assert (tmp_path / "a.aside-1" / "done.json").exists()
    second.close()
    assert not open_run(folder, {"lr": 2}, {"lr": 2}, restart=True).finished
    assert not (tmp_path / "a.aside-2").exists()


def test_a_start_that_came_to_nothing_is_in_nobodys_way(tmp_path) -> None:
    open_run(tmp_path / "a", {"lr": 1}, {"lr": 1}).close()
    run = open_run(tmp_path / "a", {"lr": 2}, {"lr": 2})
    assert (tmp_path / "a" / "config.yaml").read_text() == "lr: 2\n"
    run.close()


def test_a_damaged_record_is_named_and_what_a_killed_process_left_is_removed(tmp_path) -> None:
    folder = tmp_path / "s"
    open_run(folder, {"config": {}}, {}).close()
    (folder / ".state.pt.abc.part").write_text("half")
    open_run(folder, {"config": {}}, {}).close()
    assert not list(folder.glob(".*.part"))
    for text in ("{", "[]"):
        (folder / "run.json").write_text(text)
        with pytest.raises(BadInput, match=r"the record of a run, found a damaged file[\s\S]*run\.json"):
            open_run(folder, {"config": {}}, {})


def test_one_process_at_a_time(tmp_path) -> None:
    held = open_run(tmp_path / "a", {}, {})
    with pytest.raises(BadInput, match="in use"):
        open_run(tmp_path / "a", {}, {})
    held.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="write"):
        open_run(tmp_path / "a", {}, {})


def test_a_finished_run_is_extended_when_asked_and_only_in_its_epochs(tmp_path) -> None:
    folder = tmp_path / "s"

    def opened(epochs, lr=0.1, **options):
        return open_run(folder, {"config": {"lr": lr}, "epochs": epochs}, {"epochs": epochs}, **options)

    run = opened(4)
    run.state.write_bytes(b"state")
    run.finish({}, keep_state=True)
    with pytest.raises(BadInput, match=r"(?s)epochs was 4, now 6.*--extend"):
        opened(6)
    with pytest.raises(BadInput, match=r"config\.lr was 0\.1, now 0\.2"):
        opened(6, lr=0.2, extend=True)
    with pytest.raises(BadInput, match="more than 4 epochs"):
        opened(3, extend=True)
    for extend in (True, False):  # without the option again: it is now a run of 6 epochs
        run = opened(6, extend=extend)
        assert not run.finished
        assert run.extended == (4,)
        assert run.state.exists()
        run.close()
    assert (folder / "config.yaml").read_text() == "epochs: 6\n"
    run.finish({}, keep_state=True)
    assert json.loads((folder / "done.json").read_text()) == {"extended_after_epochs": [4]}
    run = opened(6, extend=True)
    assert run.finished
    run.close()
    assert opened(9, extend=True).extended == (4, 6)


def test_a_finished_run_without_its_state_cannot_be_extended(tmp_path) -> None:
    open_run(tmp_path / "s", {"epochs": 4}, {}).finish({})
    with pytest.raises(BadInput, match=r"without state\.pt"):
        open_run(tmp_path / "s", {"epochs": 6}, {}, extend=True)
    open_run(tmp_path / "s", {"epochs": 4}, {}).close()  # the folder was given back and is as it was


def test_an_experiment_is_what_its_dataclasses_declare() -> None:
    @dataclass(frozen=True)
    class Conduct:
        workers: int = 2

    @dataclass(frozen=True)
    class Settings:
        lr: float = 0.1

    @dataclass(frozen=True)
    class Config(Settings, Conduct):
        other: int = 1

    assert experiment(Config(), Settings) == {"lr": 0.1}
