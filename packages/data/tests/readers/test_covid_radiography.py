import pytest

from cxr_data.errors import BadInput
from cxr_data.readers import covid_radiography, recognise

NAMES = [
    "COVID/images/COVID-1.png",
    "COVID/masks/COVID-1.png",
    "COVID/images/COVID-2.png",
    "Normal/images/Normal-1.png",
    "Normal/masks/Normal-1.png",
    "Viral Pneumonia/images/Viral Pneumonia-1.png",
    "Viral Pneumonia/masks/Viral Pneumonia-1.png",
]


@pytest.mark.parametrize("above", ["", "COVID-19_Radiography_Dataset/"])
def test_classes_and_masks(tmp_path, write_images, above):
    write_images(tmp_path, [above + name for name in NAMES])
    assert recognise(tmp_path) == "covid_radiography"
    listing = covid_radiography.read(tmp_path)
    assert (listing.task, listing.labels) == ("multiclass", ("Normal", "COVID", "Viral Pneumonia"))
    assert listing.table["path"].to_list() == [above + name for name in NAMES if "/images/" in name]
    assert listing.table["mask"].to_list() == [above + NAMES[1], None, above + NAMES[4], above + NAMES[6]]
    assert listing.table["label:COVID"].to_list() == [1, 1, 0, 0]
    assert listing.table["split"].null_count() == 4
    assert "1 images have no mask" in listing.notes


def test_other_folders_are_not_taken(tmp_path, write_images):
    write_images(tmp_path, ["COVID/1.png", "Normal/2.png"])
    assert recognise(tmp_path) == "folder"
    with pytest.raises(BadInput, match="each with a folder images, found none"):
        covid_radiography.read(tmp_path)
