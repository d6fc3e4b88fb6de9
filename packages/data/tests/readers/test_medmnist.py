import numpy as np
import pytest

from cxr_data import prepare
from cxr_data.errors import BadInput
from cxr_data.readers import medmnist, recognise


def arrays(counts=(40, 10, 12), labels=1, size=28):
    rng = np.random.default_rng(0)
    made = {}
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        made[f"{split}_images"] = rng.integers(0, 256, (count, size, size), np.uint8)
        made[f"{split}_labels"] = (np.arange(count * labels).reshape(count, labels) % 2).astype(np.uint8)
    return made


def write(folder, name="pneumoniamnist_28.npz", **changed):
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / name, **{**arrays(), **changed})
    return folder


def test_arrays_become_a_cohort(tmp_path):
    source = write(tmp_path / "source")
    assert recognise(source) == "medmnist"
    cohort = prepare(source, tmp_path / "cohort", pixel_size=28, show=False, max_bad=0.0)
    assert (cohort.name, cohort.task, cohort.labels) == ("pneumoniamnist", "multiclass", ("normal", "pneumonia"))
    assert [len(cohort.rows(split)) for split in ("train", "test")] == [36, 12]  # 4 more for validation
    row = cohort.table["image"].to_list().index("pneumoniamnist_28/test/000003")
    np.testing.assert_array_equal(cohort.pixels[row], arrays()["test_images"][3])
    assert cohort.targets[row].tolist() == [0, 1]
    assert set(cohort.table["split"].gather(np.flatnonzero(cohort.table["image"].str.contains("/val/")))) == {"val"}


def test_identical_arrays_stay_together_and_blank_ones_are_set_aside(tmp_path):
    images = arrays()["train_images"]
    images[1] = images[0]
    images[2] = 7
    cohort = prepare(write(tmp_path / "source", train_images=images), tmp_path / "cohort", pixel_size=32, show=False)
    assert cohort.broken == (("pneumoniamnist_28/train/000002", "blank: every pixel has the same value"),)
    assert cohort.groups[0] == cohort.groups[1] != cohort.groups[2]
    assert "2 images in 1 groups are identical: each group stays together when splitting" in cohort.notes


def test_chestmnist_and_unknown_sets(tmp_path):
    chest = medmnist.read(write(tmp_path / "chest", "chestmnist.npz", **arrays(labels=14)))
    assert (chest.task, len(chest.labels), chest.labels[12]) == ("multilabel", 14, "Pleural_Thickening")
    assert chest.table["label:Cardiomegaly"].sum() == 62
    other = medmnist.read(write(tmp_path / "other", "breastmnist.npz"))
    assert (other.task, other.labels) == ("multiclass", ("0", "1"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"val_images": np.zeros((10, 28, 28, 3), np.uint8)}, r"gray images .* \(10, 28, 28, 3\)"),
        ({"val_labels": np.zeros((9, 1), np.uint8)}, r"labels \(10, L\)"),
        ({"val_labels": np.array([[None]] * 10)}, "a whole .npz file"),
        ({"val_labels": np.full((10, 1), 4, np.uint8)}, "2 labels, found 5"),
    ],
)
def test_bad_arrays(tmp_path, changed, message):
    with pytest.raises(BadInput, match=message):
        medmnist.read(write(tmp_path / "source", **changed))


def test_one_file_a_folder(tmp_path):
    write(tmp_path, "pneumoniamnist_64.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert medmnist.looks_like(tmp_path)
    with pytest.raises(BadInput, match=r"found pneumoniamnist_28\.npz, pneumoniamnist_64\.npz"):
        medmnist.read(write(tmp_path))
