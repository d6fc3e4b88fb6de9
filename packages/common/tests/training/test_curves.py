import chromium
import pytest

from cxr_common.training.curves import curves, page


@pytest.mark.parametrize("log", [[{"epoch": 1, "lr": 3.57e-08, "loss": -0.25}], [{"epoch": 0, "loss": None}] * 3,
    [{"epoch": epoch, "lr": 0.000702 / epoch**4, "loss": 1234.5 / epoch} for epoch in range(1, 101)]])  # fmt: skip
def test_a_browser_shows_curves_without_fault(browser, tmp_path, log):
    shown = [curves("Learning rate", {"lr": "learning rate"}, log), curves("Loss", {"loss": "training"}, log)]
    (tmp_path / "curves.html").write_text(page("Curves", "".join(shown)), "utf-8")
    assert chromium.faults(browser, tmp_path / "curves.html") == []


def test_one_epoch_is_told_in_numbers_and_two_are_drawn():
    log = [{"epoch": 1, "loss": 0.123456}, {"epoch": 2, "loss": 0.2}]
    told = curves("Loss", {"loss": "training", "val_loss": "validation"}, log[:1])
    assert "<svg" not in told
    assert "<li>training: <b>0.1235</b>, epoch 1</li>" in told
    assert "validation" not in told
    before = [{"epoch": 0, "loss": None, "rank": 3.0}, {**log[0], "rank": 4.0}]
    assert curves("Loss", {"loss": "training"}, before) == curves("Loss", {"loss": "training"}, log[:1])
    assert "<svg" in curves("Rank", {"loss": "training", "rank": "rank"}, before)
    assert "<svg" in curves("Loss", {"loss": "training"}, log)


def test_a_number_that_never_changes_is_written_once():
    chart = curves("Loss", {"loss": "training"}, [{"epoch": 1, "loss": 0.25}] * 2)
    assert chart.count(">0.25<") == 1
    assert "-0.25" not in chart
