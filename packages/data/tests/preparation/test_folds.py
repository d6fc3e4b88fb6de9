import numpy as np
import polars as pl
import pytest

from cxr_data import load, open_cohort, prepare
from cxr_data.cli import main
from cxr_data.errors import BadInput
from cxr_data.preparation.folds import fold_numbers, save_folds, with_fold


@pytest.fixture
def folder(two_classes, tmp_path):
    prepare(two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    return tmp_path / "cohort"


def test_every_training_patient_is_validated_on_once_and_test_never(folder):
    cohort = load(folder)
    numbers = fold_numbers(cohort, 4)
    assert (numbers == 0).tolist() == (cohort.table["split"] == "test").to_list()
    counts = np.bincount(numbers)[1:]
    assert counts.sum() == 48
    assert counts.max() - counts.min() <= 2
    for fold in range(1, 5):
        one = with_fold(cohort, fold, 4)
        assert (one.rows("val") == np.flatnonzero(numbers == fold)).all()
        assert not set(one.groups[one.rows("val")]) & set(one.groups[one.rows("train")])
        assert one.rows("test").tolist() == cohort.rows("test").tolist()
        assert one.targets[one.rows("val"), 0].mean() == pytest.approx(0.5, abs=0.1)
    assert len({with_fold(cohort, fold, 4).fingerprint for fold in range(1, 5)}) == 4


def test_folds_are_written_once_and_opened_by_name(folder, capsys):
    assert main(["folds", str(folder), "--folds", "4", "--seed", "7"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {folder}/folds-4.parquet" in said
    assert f"finetune --data {folder}@1/4" in said
    written = pl.read_parquet(folder / "folds-4.parquet")
    cohort = load(folder)
    assert written["fold"].to_numpy().tolist() == fold_numbers(cohort, 4, seed=7).tolist()
    assert written["fold"].to_list() != fold_numbers(cohort, 4).tolist()
    assert main(["folds", str(folder), "--folds", "4", "--seed", "7"]) == 0
    assert main(["folds", str(folder), "--folds", "4"]) == 2
    second = open_cohort(f"{folder}@2/4", pixel_size=32)
    assert second.rows("val").tolist() == np.flatnonzero(written["fold"] == 2).tolist()
    assert second.fingerprint != cohort.fingerprint
    assert any(note.startswith("fold 2 of 4") for note in second.notes)
    assert open_cohort("phantom:40@1/5", pixel_size=32).table["split"].unique().sort().to_list() == [
        "test",
        "train",
        "val",
    ]


def test_folds_that_cannot_be(folder, tmp_path):
    cohort = load(folder)
    for fold, folds, message in ((0, 4, "a fold from 1 to 4"), (5, 4, "a fold from 1 to 4"), (1, 1, "2 to 24 folds")):
        with pytest.raises(BadInput, match=message):
            with_fold(cohort, fold, folds)
    save_folds(cohort, folder, 3)
    pl.DataFrame({"image": ["a"], "fold": [1]}).write_parquet(folder / "folds-3.parquet")
    with pytest.raises(BadInput, match="folds of another"):
        with_fold(cohort, 1, 3, folder=folder)
    (folder / "folds-3.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match="a table of folds"):
        with_fold(cohort, 1, 3, folder=folder)
