import time

import numpy as np
import pytest

from cxr_data.errors import BadInput
from cxr_data.synthetic import phantom as module
from cxr_data.synthetic.body import draw_patient, heart, layers, lung
from cxr_data.synthetic.drawing import Frame, curve, fill
from cxr_data.synthetic.findings import FINDINGS, draw_disease
from cxr_data.synthetic.phantom import phantom

NUMBER = {name: k for k, name in enumerate(FINDINGS)}


@pytest.fixture(scope="module")
def cohort() -> dict:
    return phantom(300, size=64, seed=1)


def radiograph(number: int, *names: str, size: int = 96, bedside: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """One image of patient `number` with exactly these findings; the same in all else."""
    rng = np.random.default_rng([5, number])
    patient, disease = draw_patient(rng), draw_disease(rng)
    shown = np.isin(FINDINGS, names)
    streams = np.random.default_rng([6, number]), np.random.default_rng([7, number])
    return module._radiograph(*streams, patient, disease, shown, bedside, size)


@pytest.mark.parametrize(("task", "count"), [("multilabel", 5), ("multiclass", 6)])
def test_shapes_and_types(task: str, count: int) -> None:
    made = phantom(7, size=40, task=task)
    assert made["pixels"].shape == (7, 40, 40)
    assert made["pixels"].dtype == np.uint8
    assert made["masks"].shape == (7, count, 40, 40)
    assert made["masks"].dtype == np.uint8
    assert set(np.unique(made["masks"])) <= {0, 1}
    assert made["targets"].shape == (7, count)
    assert made["targets"].dtype == np.float32
    assert len(made["labels"]) == count
    assert len(made["patient"]) == 7
    assert {key: len(column) for key, column in made["extras"].items()} == {"projection": 7, "sex": 7, "age": 7}
    assert set(made["extras"]["projection"]) <= {"PA", "AP"}
    assert set(made["extras"]["sex"]) <= {"F", "M"}
    assert all(18 <= age <= 92 for age in made["extras"]["age"])


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_same_seed_same_images_and_more_images_only_append(task: str) -> None:
    few, many = phantom(5, size=48, seed=3, task=task), phantom(11, size=48, seed=3, task=task)
    for key in ("pixels", "masks", "targets"):
        np.testing.assert_array_equal(few[key], many[key][:5])
    assert few["patient"] == many["patient"][:5]
    for key, column in few["extras"].items():
        assert column == many["extras"][key][:5]
    other = phantom(5, size=48, seed=4, task=task)
    assert all(np.any(a != b) for a, b in zip(few["pixels"], other["pixels"], strict=True))


def test_same_chest_at_every_size() -> None:
    small, large = phantom(6, size=56, seed=2), phantom(6, size=224, seed=2)
    np.testing.assert_array_equal(small["targets"], large["targets"])
    reduced = large["pixels"].reshape(6, 56, 4, 56, 4).mean((2, 4))
    for a, b in zip(small["pixels"], reduced, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98
        assert abs(a.mean() - b.mean()) < 4


def test_prevalence(cohort: dict) -> None:
    share = cohort["targets"].mean(0)
    assert np.all((share > 0.08) & (share < 0.36)), share
    counts = cohort["targets"].sum(1)
    assert 0.22 < (counts == 0).mean() < 0.45
    assert (counts >= 2).mean() > 0.1


def test_one_class_each_in_multiclass() -> None:
    made = phantom(150, size=24, seed=1, task="multiclass")
    assert made["labels"] == ("normal", *FINDINGS)
    np.testing.assert_array_equal(made["targets"].sum(1), 1)
    share = made["targets"].mean(0)
    assert 0.2 < share[0] < 0.5
    assert np.all((share[1:] > 0.05) & (share[1:] < 0.25)), share
    assert not made["masks"][:, 0].any()
    np.testing.assert_array_equal(made["masks"][:, 1:].any((2, 3)), made["targets"][:, 1:] == 1)


def test_images_per_patient_and_persistence(cohort: dict) -> None:
    patients, counts = np.unique(cohort["patient"], return_counts=True)
    assert counts.max() <= 4
    assert 1.7 < counts.mean() < 2.3
    owner = np.array(cohort["patient"])
    assert (owner[1:] != owner[:-1]).sum() == len(patients) - 1  # the images of a patient are neighbours
    same = owner[1:] == owner[:-1]
    both = cohort["targets"][1:] * cohort["targets"][:-1]
    kept, chance = both[same].mean(0), cohort["targets"].mean(0) ** 2
    assert np.all(kept > 1.8 * chance), "findings of a patient recur"
    changed = (cohort["targets"][1:] != cohort["targets"][:-1])[same].mean(0)
    assert changed[NUMBER["consolidation"]] > 0.02, "but not always"
    for key in ("sex", "age"):
        column = np.array(cohort["extras"][key])
        assert np.all(column[1:][same] == column[:-1][same])


def test_patients_keep_their_anatomy(cohort: dict) -> None:
    owner = np.array(cohort["patient"])
    pixels = cohort["pixels"].reshape(len(owner), -1).astype(np.float64)
    correlation = np.corrcoef(pixels)
    same = owner[:, None] == owner[None, :]
    own = correlation[same & ~np.eye(len(owner), dtype=bool)]
    other = correlation[~same]
    assert np.median(own) > np.quantile(other, 0.9)


@pytest.mark.parametrize("size", [16, 64])
def test_masks_are_empty_exactly_where_the_target_is_0(size: int) -> None:
    made = phantom(100, size=size, seed=8)
    np.testing.assert_array_equal(made["masks"].any((2, 3)), made["targets"] == 1)


def test_masks_lie_where_the_findings_belong(cohort: dict) -> None:
    size = cohort["pixels"].shape[1]
    axis = (np.arange(size) + 0.5) / size
    for name, rows, columns, areas in [
        ("consolidation", (0.15, 0.85), (0.1, 0.9), (1e-3, 0.15)),
        ("effusion", (0.45, 0.95), (0.05, 0.95), (4e-4, 0.25)),
        ("cardiomegaly", (0.4, 0.8), (0.48, 0.62), (0.05, 0.25)),
        ("pneumothorax", (0.1, 0.6), (0.05, 0.95), (5e-4, 0.15)),
        ("nodule", (0.1, 0.8), (0.05, 0.95), (4e-4, 1.2e-2)),
    ]:
        masks = cohort["masks"][cohort["targets"][:, NUMBER[name]] == 1, NUMBER[name]].astype(np.float64)
        area = masks.mean((1, 2))
        y = (masks.mean(2) @ axis) / (area * size)
        x = (masks.mean(1) @ axis) / (area * size)
        for value, (low, high) in ((y, rows), (x, columns), (area, areas)):
            assert np.all((value >= low) & (value <= high)), (name, value.min(), value.max())
    sides = cohort["masks"][:, NUMBER["nodule"]].sum(1)
    assert sides[:, : size // 2].sum() > 0
    assert sides[:, size // 2 :].sum() > 0


def test_cardiomegaly_is_a_ratio_of_widths() -> None:
    size, ratios, areas = 384, [], []
    for number in range(8):
        rng = np.random.default_rng(number)
        patient, disease = draw_patient(rng), draw_disease(rng)
        frame = Frame(size, np.array([[patient.half_width, 0, 0.5], [0, patient.height, 0.15]]))
        thorax = fill(frame, lung(-1, patient), lung(1, patient)) > 127
        columns = np.flatnonzero(thorax.any(0))
        for ratio in (patient.heart_ratio, disease.heart_ratio):
            inside = layers(patient, frame, ratio, False, rng).heart > 127
            width = np.flatnonzero(inside.any(0))
            ratios.append((width[-1] - width[0]) / (columns[-1] - columns[0]))
            assert ratios[-1] == pytest.approx(ratio, abs=0.015)
            areas.append(inside.sum() / thorax.sum())
    healthy, enlarged = slice(0, None, 2), slice(1, None, 2)
    assert max(ratios[healthy]) < 0.49
    assert min(ratios[enlarged]) > 0.49
    assert np.all(np.array(areas[enlarged]) > np.array(areas[healthy]))


@pytest.mark.parametrize("name", FINDINGS)
def test_findings_change_the_picture_where_their_mask_is(name: str) -> None:
    inside, outside, signed = [], [], []
    for number in range(8):
        healthy, none = radiograph(number)
        ill, masks = radiograph(number, name)
        assert not none.any()
        np.testing.assert_array_equal(masks.any((1, 2)), np.array(FINDINGS) == name)
        mask = masks[NUMBER[name]] == 1
        change = ill.astype(np.float64) - healthy
        inside.append(np.abs(change[mask]).mean())
        outside.append(np.abs(change[~mask]).mean())
        signed.append(change[mask].mean())
    assert np.mean(inside) > 3, "visible: more than 1 % of the grey scale"
    assert np.median(np.array(inside) / np.array(outside)) > 2.5, "and local"
    # Fluid, cells and a larger heart attenuate more; free gas less. Auto-exposure may offset a single image.
    expected = -1 if name == "pneumothorax" else 1
    assert expected * np.median(signed) > 2


def test_bedside_projection_alters_the_picture() -> None:
    upright, bedside = radiograph(0)[0], radiograph(0, bedside=True)[0]
    assert np.abs(upright.astype(int) - bedside).mean() > 4


def test_looks_like_film(cohort: dict) -> None:
    """Lungs are darker than mediastinum and abdomen, and no image is blank or burnt out."""
    pixels = cohort["pixels"] / 255
    size = pixels.shape[1]
    row, column = slice(int(0.4 * size), int(0.5 * size)), round(0.04 * size)
    centre = pixels[:, row, size // 2 - column : size // 2 + column].mean((1, 2))
    for x in (0.3, 0.72):
        side = pixels[:, row, int(x * size) - column : int(x * size) + column].mean((1, 2))
        assert np.mean(side < centre - 0.1) > 0.95
    assert np.all(pixels.std((1, 2)) > 0.1)
    assert np.all((pixels.mean((1, 2)) > 0.15) & (pixels.mean((1, 2)) < 0.8))


def test_curve_passes_through_its_points() -> None:
    points = np.array([(0.0, 0.0), (1.0, 2.0), (3.0, 1.0), (4.0, 4.0)])
    np.testing.assert_allclose(curve(points, steps=5)[::5], points, atol=1e-12)
    np.testing.assert_allclose(curve(points, closed=True, steps=5)[::5], points, atol=1e-12)


def test_frame_places_and_finds_again() -> None:
    frame = Frame(80, np.array([[0.35, -0.02, 0.52], [0.01, 0.6, 0.15]]), taper=0.1)
    points = np.array([(-0.7, 0.2), (0.5, 0.9), (0.0, 0.5)])
    x, y = frame.grid
    for point, (u, v) in zip(points, frame.place(points), strict=True):
        column, line = round(u), round(v)
        assert abs(x[line, column] - point[0]) < 0.03
        assert abs(y[line, column] - point[1]) < 0.02


def test_heart_is_left_of_the_patients_midline() -> None:
    patient = draw_patient(np.random.default_rng(0))
    outline = heart(patient, 0.45)
    assert outline[:, 0].max() > 1.5 * -outline[:, 0].min()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n": 0, "size": 64}, "n of at least 1"),
        ({"n": 3, "size": 8}, "size of at least 16"),
        ({"n": 3, "size": 64, "seed": -1}, "seed of at least 0"),
        ({"n": 3, "size": 64, "task": "multi-label"}, "multilabel"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        phantom(**arguments)


@pytest.mark.benchmark
@pytest.mark.parametrize(("size", "limit"), [(96, 0.02), (224, 0.05)])
def test_speed(size: int, limit: float, benchmark) -> None:
    used = time.process_time()
    made = benchmark.pedantic(phantom, args=(100,), kwargs={"size": size}, rounds=3)
    assert len(made["pixels"]) == 100
    assert (time.process_time() - used) / 300 < limit, "seconds of processor time an image"
