import pytest

from cxr_data.errors import BadInput
from cxr_data.readers import READERS, folder, recognise, unlabelled


def write(path, text):
    path.write_text(text)
    return path


def test_class_folders_and_patients_from_names(two_classes):
    assert recognise(two_classes) == "folder"
    listing = folder.read(two_classes)
    assert listing.labels == ("NORMAL", "COVID")
    assert listing.table["split"].null_count() == 60
    assert listing.table["patient"].n_unique() == 30
    row = listing.table.row(0, named=True)
    assert (row["path"], row["patient"], row["label:COVID"]) == ("COVID/patient15_0.png", "patient15", 1.0)
    assert "patients were read from the file names" in listing.notes[0]


def test_split_folders_deep_images_masks_and_loose_files(tmp_path, write_images):
    names = [
        "Training/a/images/1.png",
        "Training/a/masks/1.png",
        "Training/b/deep/er/2.png",
        "val/a/3.png",
        "testing/b/4.png",
        "testing/5.png",
        "6.png",
    ]
    listing = folder.read(write_images(tmp_path, names))
    actual = dict(zip(listing.table["path"], listing.table["split"], strict=True))
    assert actual == {
        "Training/a/images/1.png": "train",
        "Training/b/deep/er/2.png": "train",
        "val/a/3.png": "val",
        "testing/b/4.png": "test",
    }
    assert any(note.startswith("2 images lie outside") for note in listing.notes)
    assert any(note.startswith("1 files in masks folders") for note in listing.notes)


@pytest.mark.parametrize("manifest", ["manifest.csv", "metadata.csv"])
def test_patients_and_extras_from_a_manifest(two_classes, manifest):
    write(
        two_classes / manifest,
        "file,patient,age,sex,view\n"
        "NORMAL/patient0_0.png,anna,061Y,F,PA\n"
        "patient0_1.png,anna,,,AP\n"
        "gone.png,nobody,,,\n",
    )
    listing = folder.read(two_classes)
    rows = {row["path"]: row for row in listing.table.iter_rows(named=True)}
    assert rows["NORMAL/patient0_0.png"]["patient"] == rows["NORMAL/patient0_1.png"]["patient"] == "anna"
    assert rows["NORMAL/patient0_0.png"]["age"] == 61
    assert rows["NORMAL/patient0_1.png"]["projection"] == "AP"
    assert rows["NORMAL/patient1_0.png"]["patient"] == "NORMAL/patient1_0.png"
    assert f"1 files of {manifest} are not among the images" in listing.notes
    assert f"58 images are not in {manifest}" in listing.notes


def test_a_manifest_may_not_point_outside(two_classes):
    write(two_classes / "manifest.csv", "file,patient\n../../etc/passwd,x\n")
    with pytest.raises(BadInput, match="paths inside the folder"):
        folder.read(two_classes)


def test_nothing_known_of_patients(tmp_path, write_images):
    names = [f"{c}/{word}.png" for c in "ab" for word in ("one", "two", "three")]
    listing = folder.read(write_images(tmp_path, names))
    assert listing.table["patient"].to_list() == listing.table["path"].to_list()
    assert "nothing says which images are of one patient" in listing.notes[0]


def test_a_prefix_common_to_all_images_is_not_a_patient(tmp_path, write_images):
    names = [f"{c}/2020_{i}.png" for c in "ab" for i in range(20)]
    assert folder.read(write_images(tmp_path, names)).table["patient"].n_unique() == 40


def test_a_folder_one_too_high_names_the_one_below(tmp_path, write_images):
    write_images(tmp_path, ["data/train/NORMAL/1.png", "data/train/ILL/2.png"])
    with pytest.raises(BadInput, match=f"name that folder: {tmp_path / 'data'}"):
        folder.read(tmp_path)


def test_one_class_is_refused(tmp_path, write_images):
    write_images(tmp_path, ["NORMAL/1.png", "NORMAL/2.png"])
    with pytest.raises(BadInput, match="at least two class folders, found one: NORMAL"):
        folder.read(tmp_path)


def test_an_empty_class_folder_is_refused(two_classes):
    (two_classes / "TB").mkdir()
    with pytest.raises(BadInput, match="none in TB"):
        folder.read(two_classes)


def test_folders_of_patients_are_not_taken_for_classes(tmp_path, write_images):
    write_images(tmp_path, [f"p{i}/study/1.png" for i in range(101)])
    with pytest.raises(BadInput, match="--reader unlabelled"):
        folder.read(tmp_path)
    listing = unlabelled.read(tmp_path)
    assert (listing.task, listing.labels, listing.table.height) == (None, (), 101)


def test_flat_folders_are_unlabelled(tmp_path, write_images):
    write_images(tmp_path / "flat", [f"00000{i:03d}_{j:03d}.png" for i in range(5) for j in (0, 1)])
    assert recognise(tmp_path / "flat") == "unlabelled"
    listing = unlabelled.read(tmp_path / "flat")
    assert listing.table["patient"].n_unique() == 5
    assert listing.table["split"].null_count() == 10

    write_images(tmp_path / "parts", ["train/1.png", "train/2.png", "val/3.png"])
    assert recognise(tmp_path / "parts") == "unlabelled"
    assert unlabelled.read(tmp_path / "parts").table["split"].to_list() == ["train", "train", "val"]


def test_every_reader_keeps_the_contract(two_classes):
    for name, reader in READERS.items():
        assert reader.looks_like(two_classes) == (name == "folder"), name


def test_spellings_of_a_class_folder_are_merged_and_named(tmp_path, write_images):
    write_images(tmp_path, ["train/NORMAL/a.png", "train/Sick one/b.png", "test/Normal/c.png", "test/SICK_ONE/d.png"])
    listing = folder.read(tmp_path)
    assert listing.labels == ("NORMAL", "SICK_ONE")
    assert [note for note in listing.notes if "merged" in note] == [
        "classes that differ only in spelling were merged: NORMAL, Normal",
        "classes that differ only in spelling were merged: SICK_ONE, Sick one",
    ]
