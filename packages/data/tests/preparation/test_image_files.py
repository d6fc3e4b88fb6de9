import gzip
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr_data import prepare
from cxr_data.errors import BadInput
from cxr_data.folders import scan, scan_with_links
from cxr_data.preparation.image_files import find_images

FORMS = {".jfif": "JPEG", ".webp": "WEBP", ".jp2": "JPEG2000", ".gif": "GIF", ".btf": "TIFF", ".dib": "BMP", "": "PNG"}


def encoded(seed: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48), np.uint8)).save(buffer, form)
    return buffer.getvalue()


def dicom(seed: int, patient: str = "P1") -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(seed)])
    dataset.PatientID = patient
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 40, 48, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = np.random.default_rng(seed).integers(0, 256, (40, 48), np.uint8).tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with an image of every kind under every sort of name, and other files."""
    root = tmp_path / "mixed"
    root.mkdir()
    for seed, (suffix, form) in enumerate(FORMS.items()):
        (root / f"image{seed}{suffix}").write_bytes(encoded(seed, form))
    for seed, name in enumerate(["IM.ima", "1.2.840.113", "1.2.840.CHEST", "XRAY", "scan.dcm.gz", "packed.gz"], 20):
        data = dicom(seed)
        (root / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (root / "table.csv").write_text("file,label")
    (root / "notes.txt").write_text("hello")
    (root / "more.csv.gz").write_bytes(gzip.compress(b"file,label"))
    (root / "Thumbs.db").write_bytes(b"x")
    (root / "data.bin").write_bytes(bytes(range(1, 200)))
    return root


def test_images_are_found_by_content_and_the_rest_is_counted(mixed):
    actual = find_images(mixed)
    assert len(actual.paths) == len(FORMS) + 6
    assert len(actual.notes) == 1
    assert actual.notes[0].startswith("4 other files were left out: ")
    for kind in ("1 x .csv", "1 x .txt", "1 x .csv.gz", "1 x .bin"):
        assert kind in actual.notes[0]


def test_all_of_them_are_prepared_and_patients_are_read_from_gzip_too(mixed, tmp_path):
    cohort = prepare(mixed, tmp_path / "cohort", pixel_size=32, show=False)
    assert len(cohort) == len(FORMS) + 6
    assert not cohort.broken
    assert any("4 other files were left out" in note for note in cohort.notes)
    patient = dict(zip(cohort.table["image"], cohort.table["patient"], strict=True))
    assert patient["scan.dcm.gz"] == patient["XRAY"] == patient["packed.gz"]


def test_pictures_of_formats_that_are_not_read_are_named(mixed, tmp_path):
    (mixed / "a.heic").write_bytes(b"\0\0\0\x1cftypheic" + bytes(40))
    (mixed / "b.pgm").write_bytes(b"P5 24 24 255\n" + bytes(576))
    (mixed / "c.jxl").write_bytes(b"\xff\x0a" + bytes(40))
    cohort = prepare(mixed, tmp_path / "cohort", pixel_size=32, show=False, max_bad=0.5)
    reasons = dict(cohort.broken)
    assert sorted(reasons) == ["a.heic", "b.pgm", "c.jxl"]
    assert all("which is not read: convert it to PNG" in reason for reason in reasons.values())


def linked(tmp_path: Path, write_images) -> Path:
    store = tmp_path / "store"
    write_images(store, [f"{c}/{i}.png" for c in ("NORMAL", "SICK") for i in range(12)])
    root = tmp_path / "root"
    root.mkdir()
    return root


def test_linked_class_folders_outside_are_named_and_inside_are_followed(tmp_path, write_images):
    root = linked(tmp_path, write_images)
    for name in ("NORMAL", "SICK"):
        (root / name).symlink_to(tmp_path / "store" / name)
    with pytest.raises(BadInput, match=r"2 links to folders elsewhere \(NORMAL, SICK\)"):
        prepare(root, tmp_path / "cohort", pixel_size=32, show=False)
    for name in ("NORMAL", "SICK"):
        (root / name).unlink()
    shutil.copytree(tmp_path / "store", root / "all")
    (root / "train").mkdir()
    for name in ("NORMAL", "SICK"):
        (root / "train" / name).symlink_to(root / "all" / name)
    cohort = prepare(root, tmp_path / "cohort", pixel_size=32, show=False)
    assert len(cohort) == 24
    assert cohort.labels == ("NORMAL", "SICK")


def test_one_linked_class_among_others_is_named(tmp_path, write_images):
    root = linked(tmp_path, write_images)
    shutil.copytree(tmp_path / "store" / "NORMAL", root / "NORMAL")
    (root / "SICK").symlink_to(tmp_path / "store" / "SICK")
    with pytest.raises(BadInput, match=r"none in SICK \(a link to a folder elsewhere\)"):
        prepare(root, tmp_path / "cohort", pixel_size=32, show=False)
    (root / "NORMAL" / "more").symlink_to(tmp_path / "store")
    assert "links to folders elsewhere were not followed: NORMAL/more, SICK" in find_images(root).notes[0]


def test_a_link_given_as_the_folder_is_followed(tmp_path, write_images):
    linked(tmp_path, write_images)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    assert len(prepare(tmp_path / "link", tmp_path / "cohort", pixel_size=32, show=False)) == 24


def test_links_in_a_ring_end(tmp_path, write_images):
    root = write_images(tmp_path / "ring", ["a/1.png", "b/2.png"])
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "other").symlink_to(root / "a")
    files, links = scan_with_links(root)
    assert {file.path for file in files} >= {"a/1.png", "b/2.png", "a/other/2.png", "b/other/1.png"}
    assert "a/up" in links
    assert files == scan(root)


def test_a_folder_of_nothing_else_says_what_is_there(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(BadInput, match=r"expected images .*, found 1 x .docx"):
        find_images(tmp_path)


def test_linked_folders_that_are_not_followed_are_named_by_every_reader(tmp_path, write_images):
    root = write_images(tmp_path / "listed", [f"{i}.png" for i in range(30)])
    rows = "\n".join(f"{i}.png,{'ab'[i % 2]},p{i}" for i in range(30))
    (root / "manifest.csv").write_text(f"file,class,patient\n{rows}\n")
    (tmp_path / "elsewhere").mkdir()
    (root / "images_002").symlink_to(tmp_path / "elsewhere")
    cohort = prepare(root, tmp_path / "cohort", pixel_size=32, show=False)
    assert any("links to folders elsewhere were not followed: images_002" in note for note in cohort.notes)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_folder_that_cannot_be_looked_into_is_one_message(tmp_path, monkeypatch, error):
    class Entry:  # a test run by root could look into any folder
        name, path = "a.png", str(tmp_path / "a.png")

        def is_symlink(self):
            return False

        is_dir = is_symlink

        def is_file(self):
            raise error

    with monkeypatch.context() as patched:
        patched.setattr("os.scandir", lambda path: iter([Entry()]))
        with pytest.raises(BadInput, match=f"readable folder, found {error.strerror}"):
            scan(tmp_path)
