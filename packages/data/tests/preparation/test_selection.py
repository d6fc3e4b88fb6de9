import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cxr_data import prepare
from cxr_data.cli import main
from cxr_data.cohorts.cache import content_key
from cxr_data.cohorts.cohort import label_matrix
from cxr_data.errors import BadInput
from cxr_data.preparation.prepare import plan
from cxr_data.preparation.selection import Selection, parse_selection, select
from cxr_data.readers import Listing
from cxr_data.readers.listing import UNCERTAIN, UNMENTIONED

NAN = float("nan")


@pytest.fixture
def listing():
    table = pl.DataFrame(
        {
            "path": ["1", "2", "3", "4", "5"],
            "projection": ["PA", "LATERAL", "AP_horizontal", None, "AP SUPINE"],
            "label:a": pl.Series([0, 1, UNCERTAIN, UNMENTIONED, NAN], dtype=pl.Float32),
            "label:b": pl.Series([UNCERTAIN, 0.25, 0.5, 0.75, None], dtype=pl.Float32),
            "label:c": pl.Series([0, 1, 0, 1, 0], dtype=pl.Float32),
        }
    )
    return Listing("made up", table, ("a", "b"), "multilabel")


@pytest.mark.parametrize(
    ("selection", "a", "b"),
    [
        (Selection(), [0, 1, NAN, 0, NAN], [NAN, 0, 0, 1, NAN]),
        (Selection(uncertain="ones"), [0, 1, 1, 0, NAN], [1, 0, 0, 1, NAN]),
        (Selection(uncertain="zeros", votes="union"), [0, 1, 0, 0, NAN], [0, 1, 1, 1, NAN]),
        (Selection(uncertain={"a": "ones"}), [0, 1, 1, 0, NAN], [NAN, 0, 0, 1, NAN]),
        (Selection(unmentioned="ignore"), [0, 1, NAN, NAN, NAN], [NAN, 0, 0, 1, NAN]),
    ],
)
def test_policies(listing, tmp_path, selection, a, b):
    selected, _ = select(listing, selection, tmp_path)
    np.testing.assert_array_equal(label_matrix(selected.table, ("a", "b")).T, [a, b])
    np.testing.assert_array_equal(selected.table["votes:b"], np.array([NAN, 0.25, 0.5, 0.75, NAN], np.float32))


def test_what_was_done_is_told(listing, tmp_path):
    selected, done = select(listing, Selection(uncertain={"b": "ones"}), tmp_path)
    assert done == {"uncertain": {"a": "ignore", "b": "ones"}, "unmentioned": "zeros", "votes": "majority"}
    assert "1 uncertain labels count as present (b 1)" in selected.notes
    assert "1 uncertain labels count as unknown (a 1)" in selected.notes


@pytest.mark.parametrize(
    ("projection", "rows"), [("auto", "12345"), ("all", "12345"), ("frontal", "135"), ("lateral", "2")]
)
def test_projections(listing, tmp_path, projection, rows):
    selected, _ = select(listing, Selection(projection=projection), tmp_path)
    assert selected.table["path"].to_list() == list(rows)


def test_projections_that_are_not_known(listing, tmp_path):
    unknown = Listing("made up", listing.table.drop("projection"), ("a",), "multilabel", projection="frontal")
    assert select(unknown, Selection(), tmp_path)[0].table.height == 5
    with pytest.raises(BadInput, match="which projection an image is"):
        select(unknown, Selection(projection="lateral"), tmp_path)
    lateral = Listing("made up", listing.table[1:2], ("a",), "multilabel", projection="frontal")
    with pytest.raises(BadInput, match="frontal images, found only LATERAL"):
        select(lateral, Selection(), tmp_path)


def test_labels_that_are_offered_can_be_chosen_in_any_order(listing, tmp_path):
    selected, done = select(listing, Selection(labels=("c", "a")), tmp_path)
    assert selected.labels == ("c", "a")
    assert [name for name in selected.table.columns if ":" in name] == ["label:a", "label:c"]
    assert done["labels"] == ["c", "a"]
    usual, _ = select(listing, Selection(), tmp_path)
    assert "label:c" not in usual.table.columns


def test_a_subset_of_classes_drops_the_other_images(tmp_path):
    one_hot = {f"label:{name}": pl.Series(np.eye(3, dtype=np.float32)[i]) for i, name in enumerate("abc")}
    classes = Listing("made up", pl.DataFrame({"path": ["1", "2", "3"], **one_hot}), ("a", "b", "c"), "multiclass")
    selected, _ = select(classes, Selection(labels=("c", "a")), tmp_path)
    assert selected.table["path"].to_list() == ["1", "3"]
    with pytest.raises(BadInput, match="at least two classes"):
        select(classes, Selection(labels=("a",)), tmp_path)


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (("A=a", "c"), {"A": [0, 1, NAN, 0, NAN], "c": [0, 1, 0, 1, 0]}),
        (("ill = a | c",), {"ill": [0, 1, NAN, 1, NAN]}),
        (("fine=No Finding", "ill=a|b"), {"fine": [NAN, 0, NAN, 0, NAN], "ill": [NAN, 1, NAN, 1, NAN]}),
    ],
)
def test_labels_are_renamed_and_joined(listing, tmp_path, labels, values):
    selected, done = select(listing, Selection(labels=labels), tmp_path)
    assert (selected.labels, done["labels"]) == (tuple(values), list(labels))
    assert [name for name in selected.table.columns if ":" in name] == [f"label:{name}" for name in values]
    np.testing.assert_array_equal(label_matrix(selected.table, selected.labels).T, list(values.values()))


def test_findings_become_classes_where_an_image_has_one_of_them(tmp_path):
    matrix = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, NAN], [0, 0, 1]], np.float32)
    columns = {f"label:{name}": matrix[:, i] for i, name in enumerate("abc")}
    findings = Listing("made up", pl.DataFrame({"path": list("123456"), **columns}), ("a", "b", "c"), "multilabel")
    chosen = Selection(labels=("NORMAL=No Finding", "PNEUMONIA=a|b"), task="multiclass")
    selected, _ = select(findings, chosen, tmp_path)
    assert (selected.task, selected.labels) == ("multiclass", ("NORMAL", "PNEUMONIA"))
    assert selected.table["path"].to_list() == ["1", "2", "3", "4"]
    np.testing.assert_array_equal(label_matrix(selected.table, selected.labels).argmax(1), [1, 1, 1, 0])
    assert selected.notes == ("2 images of other classes, of several or of unknown ones were left out",)
    classes = Selection(labels=("a", "c"), task="multiclass")
    assert select(findings, classes, tmp_path)[0].table["path"].to_list() == ["1", "3", "6"]
    with pytest.raises(BadInput, match="images of one of the classes, found none"):
        select(replace(findings, table=findings.table[1:2]), classes, tmp_path)


def test_classes_are_joined_and_split_into_labels(tmp_path):
    one_hot = {f"label:{name}": pl.Series(np.eye(3, dtype=np.float32)[i]) for i, name in enumerate("abc")}
    classes = Listing("made up", pl.DataFrame({"path": ["1", "2", "3"], **one_hot}), ("a", "b", "c"), "multiclass")
    joined, _ = select(classes, Selection(labels=("a", "ill=b|c")), tmp_path)
    np.testing.assert_array_equal(label_matrix(joined.table, joined.labels), [[1, 0], [0, 1], [0, 1]])
    assert joined.notes == ()
    with pytest.raises(BadInput, match="classes that exclude each other, found 1 images of more than one of x, y"):
        select(classes, Selection(labels=("x=a|b", "y=b|c")), tmp_path)
    single, _ = select(classes, Selection(labels=("a",), task="multilabel"), tmp_path)
    assert (single.task, single.table.height) == ("multilabel", 3)


def test_names_of_nothing_are_refused(listing, tmp_path):
    with pytest.raises(BadInput, match="NEW=OLD"):
        select(listing, Selection(labels=("=a",)), tmp_path)
    with pytest.raises(BadInput, match="NEW=OLD"):
        select(replace(listing, labels=(), task=None), Selection(labels=("fine=No Finding",)), tmp_path)


def test_nothing_to_settle_changes_nothing(listing, tmp_path):
    plain = Listing("made up", listing.table.select("path", "label:c"), ("c",), "multilabel", ("note",))
    selected, done = select(plain, Selection(), tmp_path)
    assert done == {}
    assert selected.notes == ("note",)
    assert selected.table.equals(plain.table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertain": "one"}, "did you mean ones"),
        ({"uncertain": {"a": "zeroes"}}, "did you mean zeros"),
        ({"votes": "majorty"}, "did you mean majority"),
        ({"unmentioned": "ones"}, "choose one of ignore, zeros"),
        ({"projection": "front"}, "did you mean frontal"),
        ({"task": "multi-class"}, "did you mean multiclass"),
        ({"labels": ("a", "a")}, "a twice"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        Selection(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": ("d",)},
        {"labels": ("a", "e=b|d")},
        {"labels": ("e=|b",)},
        {"labels": ("e=",)},
        {"uncertain": {"d": "ones"}},
    ],
)
def test_unknown_labels(listing, tmp_path, options):
    with pytest.raises(BadInput, match="choose one of a, b"):
        select(listing, Selection(**options), tmp_path)


def test_as_a_person_types_it():
    typed = parse_selection("Edema, Pleural Effusion", "Edema=ones, Pleural Effusion=zeros", "zeros", "union", "all")
    assert typed.labels == ("Edema", "Pleural Effusion")
    assert typed.uncertain == {"Edema": "ones", "Pleural Effusion": "zeros"}
    assert typed.options() == {
        "labels": list(typed.labels),
        "uncertain": typed.uncertain,
        "votes": "union",
        "projection": "all",
    }
    assert parse_selection([], "ignore", "zeros", "majority", "auto").options() == {}


def test_the_command_takes_options_and_remembers_them(tmp_path, write_images, capsys):
    source = tmp_path / "source"
    write_images(source, [f"{i}.png" for i in range(40)])
    lines = [f"{i}.png,p{i},{'LATERAL' if i < 5 else 'PA'},{-1 if i == 7 else i % 2},{i % 3 == 0:d}" for i in range(40)]
    (source / "manifest.csv").write_text("\n".join(["file,patient,view,label:E,label:M", *lines]))
    command = ["prepare", str(source), "--size", "28", "--out", str(tmp_path / "cohort")]
    assert main([*command, "--labels", "M,E", "--uncertain", "E=ones", "--projection", "frontal"]) == 0
    about = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    assert about["labels"] == ["M", "E"]
    assert about["selection"] == {"projection": "frontal", "labels": ["M", "E"], "uncertain": {"E": "ones"}}
    assert "note: 5 images that are not frontal were left out" in capsys.readouterr().out
    assert main(command) == 2  # other options, the same folder
    assert main([*command[:-1], str(tmp_path / "other"), "--labels", "M,F"]) == 2
    assert "'F'" in capsys.readouterr().err
    assert main([*command, "--view", "frontal"]) == 2
    assert "did you mean projection?" in capsys.readouterr().err
    assert main(["prepare", "phantom:30", "--projection", "frontal", "--out", str(tmp_path / "p")]) == 2


def test_the_size_a_cohort_is_for_is_noted_and_part_of_no_identity(two_classes, tmp_path, capsys):
    command = ["prepare", str(two_classes), "--out", str(tmp_path / "cohort"), "--size"]
    stored = {}
    for size in (40, 50):
        assert main([*command, str(size)]) == 0
        stored[size] = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    assert stored[40].pop("size") == 40
    assert stored[50].pop("size") == 50
    assert stored[40] == stored[50]
    assert stored[40]["identity"] == plan(two_classes, pixel_size=64).identity


def test_the_choice_of_projections_is_part_of_the_identity_under_its_first_name(two_classes):
    settings = plan(two_classes, pixel_size=32, selection=Selection(projection="all"))
    options = {"aspect": "squash", "window": "voi", "pixel_size": 32, "reader": settings.reader, "seed": 0}
    assert settings.identity == content_key(settings.root, {**options, "selection": {"view": "all"}})


def test_data_sets_without_choices_are_prepared_as_before(two_classes, tmp_path):
    cohort = prepare(two_classes, tmp_path / "cohort", pixel_size=32, show=False)
    about = json.loads((tmp_path / "cohort" / "cohort.json").read_text())
    assert "selection" not in about
    chosen = prepare(
        two_classes, tmp_path / "chosen", pixel_size=32, show=False, selection=Selection(labels=("COVID", "NORMAL"))
    )
    assert chosen.labels == ("COVID", "NORMAL")
    assert chosen.fingerprint != cohort.fingerprint
