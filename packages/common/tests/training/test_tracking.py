from pathlib import Path

import pytest
import torch

from cxr_common.training import tracking
from cxr_common.training.run_folder import open_run
from cxr_common.training.tracking import Tracker, check_tracker, flat
from cxr_data.errors import BadInput

CONFIG = {"lr": 0.1, "optim": {"ema": 0.0, "clip": None}, "teacher": ["a", "b"], "restart": False}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    for variable in ("WANDB_MODE", "WANDB_DIR", "TRACKIO_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(variable, "")  # so that what is set here is unset after the test
        monkeypatch.delenv(variable)
    folder = tmp_path / "run" / "teacher"
    folder.mkdir(parents=True)
    return folder


def tracked(name: str, folder: Path) -> None:
    """A run of two epochs in a folder."""
    with torch.no_grad():
        run = open_run(folder, {"stage": "finetune"}, CONFIG)
        run.tracker = Tracker(name, folder, CONFIG)
        run.tracker.images("training views", torch.full((20, 1, 8, 8), 7, dtype=torch.uint8))
        for epoch in (1, 2):
            run.log({"epoch": epoch, "loss": 1 / epoch, "val_auroc": None, "note": "text"})
        run.finish({"epochs": 2, "device": "cpu", "val_auroc": 0.75})
        assert run.tracker is None


def test_tensorboard_holds_curves_config_images_and_summary(place) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracked("tensorboard", place)
    read = events.EventAccumulator(str(place / "tracking" / "run-teacher"), size_guidance={"images": 0}).Reload()
    assert [(one.step, round(one.value, 3)) for one in read.Scalars("loss")] == [(1, 1.0), (2, 0.5)]
    assert {"summary/epochs", "summary/val_auroc"} <= set(read.Tags()["scalars"])
    assert "val_auroc" not in read.Tags()["scalars"]  # undefined in both epochs
    assert "training views" in str(read.Tags()["images"])
    assert any("summary" in tag for tag in read.Tags()["tensors"])
    config = next((place / "tracking").rglob("hparams.yml")).read_text()
    assert "optim.ema: 0.0" in config


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_other_trackers_keep_a_run_on_this_machine(name, place) -> None:
    pytest.importorskip(name)
    tracked(name, place)
    assert any((place / "tracking").rglob("*"))


def test_a_tracker_that_is_not_installed_is_named_before_anything_runs(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in tracking.TRACKERS:
        with pytest.raises(BadInput, match=f"pip install '{name}'"):
            check_tracker(name)
    with pytest.raises(BadInput, match="did you mean tensorboard"):
        check_tracker("tensorbord")
    check_tracker(None)


def test_a_config_becomes_one_level_of_plain_values() -> None:
    expected = {"lr": 0.1, "optim.ema": 0.0, "optim.clip": "null", "teacher": '["a", "b"]', "restart": False}
    assert flat(CONFIG) == expected
