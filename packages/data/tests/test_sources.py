import numpy as np
import pytest

from cxr_data import open_cohort, pixel_size_for, prepare
from cxr_data.errors import BadInput


@pytest.mark.parametrize(("size", "stored"), [(28, 32), (56, 64), (64, 96), (96, 128), (112, 128), (224, 256)])
def test_stored_edge(size, stored):
    assert pixel_size_for(size) == stored


def test_the_stored_edge_is_the_next_multiple_of_32():
    for size in range(16, 600):
        assert 1.14 * size - 1e-9 <= pixel_size_for(size) < 1.14 * size + 32
        assert pixel_size_for(size) % 32 == 0
    assert pixel_size_for(3592) == 4096


def test_the_phantom_is_made_once_with_masks_and_a_patient_wise_split(monkeypatch):
    cohort = open_cohort("phantom:60", pixel_size=32, seed=3)
    assert (len(cohort), cohort.pixel_size, cohort.task) == (60, 32, "multilabel")
    assert cohort.masks is not None
    assert cohort.masks.shape == (60, len(cohort.labels), 32, 32)
    np.testing.assert_array_equal(cohort.masks.any(axis=(2, 3)), cohort.targets == 1)
    patients = [set(cohort.table["patient"].gather(cohort.rows(split))) for split in ("train", "val", "test")]
    assert all(patients)
    assert sum(map(len, patients)) == len(set.union(*patients))

    import cxr_data.synthetic.phantom as generator

    def again(*_, **__):
        raise AssertionError("generated a second time")

    monkeypatch.setattr(generator, "phantom", again)
    assert open_cohort("phantom:60", pixel_size=32, seed=3).fingerprint == cohort.fingerprint
    with pytest.raises(AssertionError, match="second time"):
        open_cohort("phantom:60", pixel_size=32, seed=4)


def test_the_multiclass_phantom():
    cohort = open_cohort("phantom-multiclass:40", pixel_size=32)
    assert cohort.task == "multiclass"
    assert (cohort.targets.sum(axis=1) == 1).all()


@pytest.mark.parametrize("name", ["fantom", "phantom:", "phantom-multilabel:10", "phantom:ten"])
def test_misspelt_phantoms(name):
    with pytest.raises(BadInput, match="check the spelling"):
        open_cohort(name, pixel_size=32)


def test_a_phantom_too_small_to_split_is_refused():
    with pytest.raises(BadInput, match="at least 20"):
        open_cohort("phantom:5", pixel_size=32)


def test_more_phantoms_than_memory_holds_are_refused():
    with pytest.raises(BadInput, match="phantom images of 32 pixels in this memory, found 99,999,999,999"):
        open_cohort("phantom:99999999999", pixel_size=32)


def test_raw_folders_are_prepared_into_the_cache(two_classes):
    cohort = open_cohort(str(two_classes), pixel_size=32)
    assert cohort.pixel_size == 32
    assert isinstance(cohort.pixels, np.memmap)
    assert "cxr-cache" in str(cohort.pixels.filename)


def test_prepared_folders_keep_their_size(two_classes, tmp_path):
    prepare(two_classes, tmp_path / "cohort", pixel_size=64, show=False)
    assert open_cohort(str(tmp_path / "cohort"), pixel_size=32).pixel_size == 64
    larger = open_cohort(str(tmp_path / "cohort"), pixel_size=128)
    assert larger.pixel_size == 64
    assert "stored at 64 pixels where 128 were asked for" in larger.notes[-1]


def test_a_missing_folder_names_its_neighbours(two_classes):
    with pytest.raises(BadInput, match=r"did you mean .*two classes"):
        open_cohort(str(two_classes.parent / "two-classes"), pixel_size=32)


def test_a_prepared_cohort_needs_no_size(two_classes, tmp_path):
    prepare(two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    cohort = open_cohort(tmp_path / "cohort")
    assert cohort.pixel_size == 32
    assert not any("pixels were asked for" in note for note in cohort.notes)


def test_an_empty_name_is_not_the_folder_one_stands_in(tmp_path, monkeypatch, write_images):
    write_images(tmp_path, ["a/1.png", "b/2.png"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="an empty name"):
        open_cohort("")
