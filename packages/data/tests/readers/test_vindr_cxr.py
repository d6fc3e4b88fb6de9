import pytest

from cxr_data.errors import BadInput
from cxr_data.preparation.selection import Selection, select
from cxr_data.readers import recognise, tables, vindr_cxr

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
ROWS = [
    *(f"aa,No finding,14,R{n},,,," for n in (1, 2, 3)),
    *(f"bb,Cardiomegaly,3,R{n},1,2,3,4" for n in (1, 2)),
    "bb,Nodule/Mass,8,R1,1,2,3,4",
    "bb,Nodule/Mass,8,R1,5,6,7,8",
    "bb,No finding,14,R3,,,,",
]


@pytest.fixture
def kaggle(tmp_path, write_images):
    (tmp_path / "train.csv").write_text("\n".join([HEADER, *ROWS]))
    return write_images(tmp_path, ["train/aa.png", "train/bb.png", "test/cc.png"])


def test_shares_of_readers(kaggle):
    assert recognise(kaggle) == "vindr_cxr"
    listing = vindr_cxr.read(kaggle)
    assert listing.labels == ("Cardiomegaly", "Nodule/Mass")
    assert listing.table["path"].to_list() == ["train/aa.png", "train/bb.png"]
    assert listing.table["label:Cardiomegaly"].to_list() == pytest.approx([0, 2 / 3])
    assert listing.table["label:Nodule/Mass"].to_list() == pytest.approx([0, 1 / 3])
    assert listing.table["readers"].to_list() == [3, 3]
    assert listing.table["split"].null_count() == 2


@pytest.mark.parametrize(("votes", "mass"), [("majority", 0), ("union", 1)])
def test_votes(kaggle, votes, mass):
    selected, done = select(vindr_cxr.read(kaggle), Selection(votes=votes), kaggle)
    assert selected.table["label:Cardiomegaly"].to_list() == [0, 1]
    assert selected.table["label:Nodule/Mass"].to_list() == [0, mass]
    assert selected.table["votes:Nodule/Mass"].to_list() == pytest.approx([0, 1 / 3])
    assert done == {"votes": votes}


@pytest.mark.parametrize("folder", ["", "annotations/"])
def test_the_physionet_edition_has_a_test_part(tmp_path, write_images, folder):
    write_images(tmp_path, ["train/aa.png", "train/bb.png", "test/cc.png"])
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "image_labels_train.csv").write_text(
        "image_id,rad_id,Edema,Rib fracture,No finding\naa,R1,0,0,1\naa,R2,1,0,0\nbb,R1,0,1,0\n"
    )
    (tmp_path / folder / "image_labels_test.csv").write_text("image_id,Edema,Rib fracture,No finding\ncc,1,0,0\n")
    assert recognise(tmp_path) == "vindr_cxr"
    listing = vindr_cxr.read(tmp_path)
    rows = {row["patient"]: row for row in listing.table.iter_rows(named=True)}
    assert {name: row["split"] for name, row in rows.items()} == {"aa": "train", "bb": "train", "cc": "test"}
    assert [rows[name]["label:Edema"] for name in ("aa", "bb", "cc")] == [0.5, 0, 1]
    assert [rows[name]["readers"] for name in ("aa", "bb", "cc")] == [2, 1, 1]


def test_rows_without_a_reader_are_refused(kaggle):
    (kaggle / "train.csv").write_text("\n".join([HEADER, "aa,No finding,14,,,,,"]))
    with pytest.raises(BadInput, match="a reader in every row"):
        vindr_cxr.read(kaggle)


@pytest.mark.slow
def test_the_official_table(official_tables, tmp_path, monkeypatch):
    table = tmp_path / "train.csv"
    table.write_bytes(official_tables("vinbigdata-train.csv.gz"))
    names = sorted({line.split(",")[0] for line in table.read_text().splitlines()[1:]})
    monkeypatch.setattr(tables, "image_files", lambda _: [f"train/{name}.dicom" for name in names])
    listing = vindr_cxr.read(tmp_path)
    assert (listing.table.height, len(listing.labels)) == (15_000, 14)
    assert set(listing.table["readers"]) == {3}
