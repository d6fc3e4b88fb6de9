import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_data.auditing import shortcuts
from cxr_data.auditing.measures import measure
from cxr_data.cohorts.cohort import Cohort


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 9))
def test_auroc_counts_ties_half(seed, images, levels):
    rng = np.random.default_rng(seed)
    positive = np.arange(images) < rng.integers(1, images)
    rng.shuffle(positive)
    values = rng.integers(0, levels, images).astype(float)
    assert shortcuts.auroc(values, positive)[0] == pytest.approx(roc_auc_score(positive, values), abs=1e-12)


def test_the_error_of_an_auroc_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    positive = np.arange(200) < 60
    drawn = [shortcuts.auroc(rng.normal(positive.astype(float)), positive) for _ in range(400)]
    areas, errors = np.array(drawn).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.1)


def test_cramers_v_is_the_published_formula():
    table = np.array([[30, 12], [8, 25], [5, 5]])
    total, chi = 85, 0.0
    for i in range(3):
        for j in range(2):
            expected = table[i].sum() * table[:, j].sum() / total
            chi += (table[i, j] - expected) ** 2 / expected
    phi = max(0, chi / total - 2 / 84)
    assert shortcuts.cramers_v(table)[0] == pytest.approx(np.sqrt(phi / min(3 - 4 / 84 - 1, 2 - 1 / 84 - 1)))
    assert shortcuts.cramers_v(np.array([[50, 0], [0, 50]])) == (pytest.approx(1.0), True)
    assert shortcuts.cramers_v(np.array([[50, 50], [51, 49]])) == (0.0, False)


def test_confounders_are_told_from_chance():
    rng = np.random.default_rng(1)
    truth = (rng.uniform(size=600) < 0.4).astype(np.float32)
    truth[:20] = np.nan
    sizes = {"size": rng.normal(truth), "noise": rng.normal(size=600), "constant": np.ones(600)}
    actual = shortcuts.numeric_confounders({"a": truth}, {name: np.nan_to_num(x) for name, x in sizes.items()})
    assert {row["by"]: row["confounded"] for row in actual} == {"size": True, "noise": False}
    assert actual[0]["images"] == 580
    assert actual[0]["mean_positive"] > actual[0]["mean_negative"] + 0.5
    view = ["AP" if sick == 1 or rng.uniform() < 0.3 else "PA" for sick in truth]
    sex = [str(s) for s in rng.choice(["F", "M"], 600)]
    rows = shortcuts.category_confounders({"a": truth}, {"projection": view, "sex": sex, "one": ["x"] * 600})
    assert {row["by"]: row["confounded"] for row in rows} == {"projection": True, "sex": False}
    assert rows[0]["shares"]["PA"] == 0
    assert sum(rows[0]["counts"].values()) == 580


def test_rare_labels_are_not_judged():
    truth = np.zeros(100, np.float32)
    truth[:9] = 1
    assert shortcuts.numeric_confounders({"a": truth}, {"size": np.arange(100.0)}) == []


def test_thumbnails_tell_what_is_plain_to_see():
    rng = np.random.default_rng(2)
    truth = (np.arange(300) % 2).astype(np.float32)
    pixels = rng.integers(0, 200, (300, 32, 32)).astype(np.uint8)
    pixels[truth == 1, :8, :8] += 50
    split = ["train"] * 200 + ["test"] * 100
    table = {"image": [f"{i}" for i in range(300)], "patient": [f"{i}" for i in range(300)], "split": split}
    labels = {"label:NORMAL": 1 - truth, "label:ILL": truth}
    cohort = Cohort("c", "multiclass", ("NORMAL", "ILL"), pl.DataFrame(table | labels), pixels, {}, "here", "0")
    assert set(shortcuts.label_vectors(cohort)) == {"ILL"}
    assert shortcuts.thumbnail_baseline(cohort, measure(cohort))["ILL"] > 0.99
