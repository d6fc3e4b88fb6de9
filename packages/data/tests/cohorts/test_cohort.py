import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from cxr_data import Cohort, load, save
from cxr_data.cohorts.cohort import label_matrix
from cxr_data.cohorts.digests import fingerprint, pixel_digests
from cxr_data.errors import BadInput

NAN = float("nan")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 16, 16), np.uint8)


def example(**changes) -> Cohort:
    table = pl.DataFrame(
        {
            "image": [f"{i}.png" for i in range(6)],
            "patient": ["a", "a", "b", "c", "d", "d"],
            "split": ["train", "train", "train", "val", "test", "test"],
            "group": [0, 0, 1, 2, 3, 3],
            "label:Mass": pl.Series([1.0, 0.0, NAN, 1.0, 0.0, NAN], dtype=pl.Float32),
            "label:Nodule": pl.Series([0.0, 0.0, NAN, 1.0, None, 1.0], dtype=pl.Float32),
            "age": pl.Series([1.5, None, 2.0, 3.0, 4.0, 5.0], dtype=pl.Float32),
        }
    )
    labels = ("Mass", "Nodule")
    whole = Cohort(
        name="example",
        task="multilabel",
        labels=labels,
        table=table,
        pixels=PIXELS,
        pixel_mapping={"aspect": "pad", "window": "voi"},
        source="/somewhere/example",
        fingerprint=fingerprint(labels, table, pixel_digests(PIXELS)),
        notes=("a note",),
        broken=(("x.png", "zero bytes"),),
    )
    return replace(whole, **changes)


def test_rows_and_targets():
    cohort = example()
    assert cohort.rows("train").tolist() == [0, 1, 2]
    assert cohort.rows("train").dtype == np.int64
    assert cohort.rows("test").tolist() == [4, 5]
    with pytest.raises(BadInput, match="did you mean val"):
        cohort.rows("valid")
    expected = [[1, 0], [0, 0], [NAN, NAN], [1, 1], [0, NAN], [NAN, 1]]
    np.testing.assert_array_equal(cohort.targets, np.array(expected, np.float32))
    assert cohort.targets.dtype == np.float32


def test_a_cohort_with_a_column_view_opens_with_its_projections_and_fingerprint(tmp_path):
    table = example().table.with_columns(projection=pl.Series(["PA", "AP", "PA", None, "AP", "PA"]))
    save(example(table=table), tmp_path / "cohort")
    written_before = table.rename({"projection": "view"})
    written_before.write_parquet(tmp_path / "cohort" / "cohort.parquet")
    opened = load(tmp_path / "cohort")
    assert opened.table.equals(table)
    digests = pixel_digests(PIXELS)
    assert fingerprint(opened.labels, opened.table, digests) == fingerprint(opened.labels, written_before, digests)


def test_without_labels_the_targets_have_no_column():
    cohort = example(labels=(), task=None)
    assert cohort.targets.shape == (6, 0)


def test_mean_and_std_are_those_of_the_training_pixels():
    mean, std = example().mean_std()
    train = PIXELS[:3].astype(np.float64) / 255
    assert mean == pytest.approx(train.mean(), abs=1e-12)
    assert std == pytest.approx(train.std(), abs=1e-12)


def test_mean_and_std_stay_exact_over_more_pixels_than_float32_counts():
    # 300 images of one level: 19.7 million counts in one bin, beyond 2^24.
    pixels = np.full((301, 256, 256), 100, np.uint8)
    pixels[0] = 255
    table = pl.DataFrame({"image": "i", "patient": "p", "split": ["train"] * 301})
    mean, _ = example(pixels=pixels, table=table, labels=()).mean_std()
    assert mean == pytest.approx((300 * 100 + 255) / 301 / 255, abs=1e-12)


def test_groups_fall_back_to_patients():
    cohort = example()
    assert example(table=cohort.table.drop("group")).groups.tolist() == cohort.groups.tolist()


def test_describe_counts_images_patients_and_labels():
    described = example().describe()
    assert described["splits"]["train"] == {
        "images": 3,
        "patients": 2,
        "positive": {"Mass": 1, "Nodule": 0},
        "unknown": {"Mass": 1, "Nodule": 1},
    }
    assert described["splits"]["test"]["unknown"] == {"Mass": 1, "Nodule": 1}
    assert described["source"] == "example"
    json.dumps(described, allow_nan=False)


def test_the_fingerprint_covers_labels_table_and_pixels_but_not_names_of_patients():
    cohort = example()
    digests = pixel_digests(PIXELS)
    same = cohort.table.with_columns(pl.Series("patient", ["u", "u", "v", "w", "x", "x"]))
    assert fingerprint(cohort.labels, same, digests) == cohort.fingerprint
    regrouped = cohort.table.with_columns(pl.Series("patient", ["a", "b", "b", "c", "d", "d"]))
    relabelled = cohort.table.with_columns(pl.Series("label:Mass", [1.0, 0.0, NAN, 1.0, 1.0, NAN]).cast(pl.Float32))
    other_pixels = PIXELS.copy()
    other_pixels[5, 15, 15] ^= 1
    others = {
        fingerprint(cohort.labels, regrouped, digests),
        fingerprint(cohort.labels, relabelled, digests),
        fingerprint(("Nodule", "Mass"), cohort.table, digests),
        fingerprint(cohort.labels, cohort.table, pixel_digests(other_pixels)),
        cohort.fingerprint,
    }
    assert len(others) == 5


def test_saved_and_loaded_cohorts_are_equal(tmp_path):
    masks = np.zeros((6, 2, 16, 16), np.uint8)
    masks[3, 1, 4:9, 2:5] = 1
    cohort = example(masks=masks)
    save(cohort, tmp_path / "deep" / "cohort")
    loaded = load(tmp_path / "deep" / "cohort")
    assert loaded.table.equals(cohort.table)
    assert isinstance(loaded.pixels, np.memmap)
    assert not loaded.pixels.flags.writeable
    np.testing.assert_array_equal(loaded.pixels, PIXELS)
    assert loaded.masks is not None
    np.testing.assert_array_equal(loaded.masks, masks)
    for name in ("name", "task", "labels", "pixel_mapping", "source", "fingerprint", "notes", "broken"):
        assert getattr(loaded, name) == getattr(cohort, name), name
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["cohort"]


def test_a_folder_with_content_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="new or empty folder"):
        save(example(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("free", [2**20, 2**20 + 1700])
def test_a_disk_too_full_for_pixels_or_masks_is_told_before_it_is_written_to(tmp_path, monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    masks = np.ones((6, 2, 16, 16), np.uint8)
    with pytest.raises(BadInput, match="MiB of free disk"):
        save(example(masks=masks), tmp_path / "cohort")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"NaN|JSON"):
        save(example(pixel_mapping={"gamma": NAN}), tmp_path / "cohort")
    assert list(tmp_path.iterdir()) == []


def test_damaged_cohorts_are_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"no cohort\.json"):
        load(tmp_path)
    save(example(), tmp_path / "c")
    np.save(tmp_path / "c" / "pixels.npy", PIXELS[:5])
    with pytest.raises(BadInput, match=r"pixels.npy is uint8 \(5, 16, 16\), cohort.parquet has 6 rows"):
        load(tmp_path / "c")
    (tmp_path / "c" / "pixels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadInput, match="damaged"):
        load(tmp_path / "c")
    about = json.loads((tmp_path / "c" / "cohort.json").read_text())
    (tmp_path / "c" / "cohort.json").write_text(json.dumps({**about, "schema": 99}))
    with pytest.raises(BadInput, match="schema 99"):
        load(tmp_path / "c")


def test_label_matrix_of_nulls_is_nan():
    table = pl.DataFrame({"label:a": pl.Series([None, 1.0], dtype=pl.Float32)})
    np.testing.assert_array_equal(label_matrix(table, ("a",)), np.array([[NAN], [1]], np.float32))
