from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_common.training.accelerator import start as start_engine
from cxr_data.augment import ViewSpec, draw, render
from cxr_data.errors import BadInput
from cxr_data.preparation.splits import label_fraction
from cxr_distill.data import Batch, batches, mixed, order_of, training_rows, with_trained_labels


def test_every_image_once_without_weights() -> None:
    order = order_of(20, 0, 1, 5)
    assert order.images.shape == (4, 5)
    assert sorted(order.images.ravel()) == list(range(20))
    assert np.array_equal(order.images, order.views)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), n=st.integers(8, 60), batch=st.integers(2, 8))
def test_with_weights_as_often_as_these_say(seed, n, batch) -> None:
    weights = np.random.default_rng(seed).uniform(0.1, 5, n)
    weights *= n / weights.sum()
    order = order_of(n, seed, 0, batch * (n // batch), weights)
    if n % batch == 0:
        counts = np.bincount(order.images.ravel(), minlength=n)
        assert (np.abs(counts - weights) < 2).all()
    assert order.images.shape == order_of(n, seed, 0, batch * (n // batch)).images.shape
    assert len(np.unique(order.views)) == order.views.size  # an image drawn twice is seen in two views
    fixed = order_of(n, seed, 0, batch * (n // batch), weights, fixed=True)
    assert np.array_equal(fixed.views, fixed.images)
    assert np.array_equal(fixed.images, order.images)


def test_weights_change_the_mix_over_epochs() -> None:
    weights = np.repeat([0.5, 5.0], [90, 10]) / 0.95
    drawn = np.concatenate([order_of(100, 0, epoch, 100, weights).images.ravel() for epoch in range(20)])
    assert (drawn >= 90).mean() == pytest.approx(50 / 95, abs=0.02)


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_show_student_and_teachers_the_same_views(toy_cohort, on_device) -> None:
    rows, spec = toy_cohort.rows("train"), ViewSpec(32)
    finer = replace(toy_cohort, pixels=toy_cohort.pixels.repeat(2, axis=1).repeat(2, axis=2))
    views, order = draw(spec, len(rows), 0, 0), order_of(len(rows), 0, 0, 8)
    actual = list(
        batches(
            toy_cohort, rows, toy_cohort.targets, spec, order, views, accelerator=start_engine("fp32"), first_step=1,
            sizes=(32, 48, 80), finer={80: finer}, cached=lambda positions: {"positions": torch.from_numpy(positions)},
            augment_on_device=on_device,
        )
    )  # fmt: skip
    assert len(actual) == len(order.images) - 1
    batch = actual[0]
    chosen = np.sort(order.images[1])
    assert batch.cached["positions"].tolist() == chosen.tolist()
    assert batch.shown[32] is batch.images
    for size, cohort in ((32, toy_cohort), (48, toy_cohort), (80, finer)):
        expected = render(cohort.pixels[rows[chosen]], {k: v[chosen] for k, v in views.items()}, ViewSpec(size))
        apart = np.abs(batch.shown[size][:, 0].numpy().astype(int) - expected[0])
        assert apart.max() <= int(on_device)
    assert np.array_equal(batch.targets.numpy(), toy_cohort.targets[rows[chosen]])


def test_mixing() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 1, 4, 4), dtype=torch.uint8, generator=g)
    larger = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=g)
    targets = torch.eye(6)[:, :2]
    targets[0, 0] = torch.nan
    batch = Batch(images, targets, {4: images, 8: larger}, {})
    one = mixed(batch, 0.4, (0, 1, 2))
    again = mixed(batch, 0.4, (0, 1, 2))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, mixed(batch, 0.4, (0, 1, 3)).images)
    rng = np.random.default_rng([0, 1, 2])
    share, other = rng.beta(0.4, 0.4), rng.permutation(6)
    for actual, given_ in ((one.images, images), (one.shown[8], larger)):
        expected = share * given_.double() + (1 - share) * given_[other].double()
        torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=0)
    assert one.shown[4] is one.images
    assert one.targets[:, 0].isnan().sum() == (1 if other[0] == 0 else 2)


def with_same(cohort):
    """The cohort with labels that are 0 in all images."""
    return replace(
        cohort, table=cohort.table.with_columns(pl.lit(0.0).alias(f"label:{label}") for label in cohort.labels)
    )


def with_values(cohort, label, rows, values: int | list[int] = 1):
    """The cohort with a label unknown in all training images but some."""
    column = np.where(
        np.isin(np.arange(len(cohort.table)), cohort.rows("train")), np.nan, cohort.table[f"label:{label}"]
    )
    column[rows] = values
    return replace(cohort, table=cohort.table.with_columns(pl.Series(f"label:{label}", column)))


def test_a_label_unknown_in_the_training_images_that_are_used_is_left_out(multilabel_cohort) -> None:
    whole = replace(multilabel_cohort, notes=("of before",))
    assert with_trained_labels(whole) is whole
    blank = with_values(whole, "rare", [])
    actual = with_trained_labels(blank)
    assert actual.labels == ("square",)
    assert actual.notes == (
        "training images do not differ in rare (no value, or the same for all): left out of training, thresholds and "
        "averages",
        "of before",
    )
    assert with_trained_labels(with_values(whole, "rare", whole.rows("train")[:3])).labels == ("square",)
    one = with_values(whole, "rare", whole.rows("train")[:2], [1, 0])
    assert with_trained_labels(one) is one
    few = [with_trained_labels(one, 0.5, seed) for seed in range(6)]
    assert {cohort.labels for cohort in few} == {("square",), ("square", "rare")}
    for seed, cohort in enumerate(few):
        rows, targets = training_rows(cohort, fraction=0.5, seed=seed, labelled_only=True)
        assert not np.isnan(targets[rows]).all(axis=0).any()
        assert np.array_equal(rows, label_fraction(cohort, 0.5, seed=seed))
        if cohort.labels == ("square",):
            said = "training images among the 0.5 of the labels that are used do not differ in rare"
            assert cohort.notes[0].startswith(said)
    alone = replace(blank, labels=("rare",))
    with pytest.raises(BadInput, match="training images that differ in a label"):
        with_trained_labels(with_same(alone))


def test_a_label_that_the_teacher_answers_for_stays(multilabel_cohort) -> None:
    blank = with_values(multilabel_cohort, "rare", [])
    assert with_trained_labels(blank, taught={"rare", "square"}) is blank
    assert with_trained_labels(blank, taught={"square"}).labels == ("square",)


def test_a_class_without_training_images_is_refused(toy_cohort) -> None:
    train = toy_cohort.rows("train")
    targets = toy_cohort.targets.copy()
    targets[train] = [1, 0]
    table = toy_cohort.table.with_columns(
        pl.Series(f"label:{n}", targets[:, i]) for i, n in enumerate(toy_cohort.labels)
    )
    with pytest.raises(BadInput, match="none of PNEUMONIA"):
        with_trained_labels(replace(toy_cohort, table=table))
