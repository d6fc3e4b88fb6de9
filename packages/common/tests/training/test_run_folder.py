import os

import pytest

from cxr_common.training.run_folder import open_run
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


def test_a_record_older_than_an_option_stands_for_what_was_done_then(tmp_path) -> None:
    open_run(tmp_path / "s", {"config": {"lr": 1.0}}, {}).close()
    (tmp_path / "s" / "done.json").write_text("{}")
    now = {"config": {"lr": 1.0, "mode": "full"}}
    run = open_run(tmp_path / "s", now, {}, later={"mode": "full", "other": 1})
    assert run.finished
    run.close()
    with pytest.raises(BadInput, match=r"config\.mode was 'full', now 'linear'"):
        open_run(tmp_path / "s", {"config": {"lr": 1.0, "mode": "linear"}}, {}, later={"mode": "full"})
