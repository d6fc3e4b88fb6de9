import pytest

from cxr_common.training.sizes import training_size
from cxr_data import open_cohort, pixel_size_for, save
from cxr_data.cohorts.cohort import note_size


@pytest.mark.parametrize(
    ("architecture", "prepared", "size"),
    [
        ("resnet18", 40, 40),
        ("vit_tiny_patch16_224", 40, 32),
        ("vit_tiny_patch16_224", 48, 48),
        ("baseline_cnn", 100, 100),
    ],
)
def test_the_size_of_the_cohort_is_taken_or_a_smaller_one_with_a_note(architecture, prepared, size, tmp_path, capsys):
    save(open_cohort("phantom:20", pixel_size=pixel_size_for(prepared), show=False), tmp_path / "c")
    note_size(tmp_path / "c", prepared)
    assert training_size(None, str(tmp_path / "c"), architecture) == size
    told = f"note: {architecture} does not take the {prepared} px of the data: it is trained at {size} px\n"
    assert capsys.readouterr().out == ("" if size == prepared else told)
    assert training_size(64, str(tmp_path / "c"), architecture) == 64
