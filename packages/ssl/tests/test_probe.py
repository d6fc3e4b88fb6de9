import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from cxr_data.models.metrics import auroc
from cxr_ssl.probe import PENALTIES, _ridge_scores, knn_probe, linear_probe, rankme


def made(n: int, features: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, features)) * random.uniform(0.1, 10, features) + 5
    signal = (x - 5)[:, :3] @ np.array([1.0, -0.5, 0.2])
    labels = np.stack([signal + noise * random.normal(size=n) > 0, random.uniform(size=n) > 0.5], 1)
    return x, labels.astype(np.float32)


@pytest.mark.parametrize(("n", "features"), [(200, 10), (60, 150)])
def test_scores_are_those_of_ridge_with_the_best_gcv_penalty(n, features):
    x, y = made(n, features, noise=5.0)
    new, _ = made(40, features, seed=1)
    scores = _ridge_scores(x, y.astype(np.float64), new)
    standard = (x - x.mean(0)) / x.std(0)
    best = []
    for penalty in PENALTIES * n:
        hat = standard @ np.linalg.solve(standard.T @ standard + penalty * np.eye(features), standard.T)
        centred = y - y.mean(0)
        error = ((centred - hat @ centred) ** 2).mean(0) / (1 - min((np.trace(hat) + 1) / n, 1 - 1e-9)) ** 2
        model = Ridge(alpha=penalty).fit(standard, y)
        best.append((error, model.predict((new - x.mean(0)) / x.std(0)) - y.mean(0)))
    for label in range(2):
        expected = min(best, key=lambda pair, label=label: pair[0][label])[1][:, label]
        np.testing.assert_allclose(scores[:, label], expected, atol=1e-6)


def test_a_readable_label_scores_high_and_noise_near_a_half():
    x, y = made(400, 20)
    new, truth = made(400, 20, seed=1)
    areas = linear_probe(x, y, new, truth)
    assert areas[0] > 0.95
    assert 0.4 < areas[1] < 0.6


def test_unknown_labels_are_left_out_not_taken_for_negatives():
    x, y = made(300, 5)
    new, truth = made(200, 5, seed=1)
    holes = y.copy()
    holes[100:, 0] = np.nan
    expected = linear_probe(x[:100], y[:100, :1], new, truth[:, :1])
    actual = linear_probe(x, holes, new, truth)
    assert actual[0] == pytest.approx(expected[0], abs=1e-12)
    assert actual[1] == pytest.approx(linear_probe(x, y, new, truth)[1], abs=1e-12)


def test_what_cannot_be_judged_is_nan():
    x, y = made(50, 5)
    one_class = np.zeros_like(y)
    assert np.isnan(linear_probe(x, one_class, x, y)).all()
    assert np.isnan(linear_probe(x, y, x, one_class)).all()
    assert np.isnan(linear_probe(x, np.full_like(y, np.nan), x, y)).all()
    assert np.isnan(linear_probe(np.full_like(x, np.inf), y, x, y)).all()


def test_constant_and_doubled_features_do_no_harm():
    x, y = made(200, 6)
    new, truth = made(200, 6, seed=1)
    plain = linear_probe(x, y, new, truth)
    odd = linear_probe(
        np.hstack([x, x, np.full((200, 1), 3.0)]), y, np.hstack([new, new, np.full((200, 1), 4.0)]), truth
    )
    assert odd[0] == pytest.approx(plain[0], abs=5e-3)
    constant = linear_probe(np.ones((200, 4)), y, np.ones((200, 4)), truth)
    assert constant == pytest.approx(auroc(truth, np.zeros_like(truth)))


def test_nearest_neighbours_are_those_of_sklearn():
    x, y = made(150, 8)
    new, truth = made(60, 8, seed=1)
    weights = {"weights": lambda distances: np.exp((1 - distances) / 0.07), "metric": "cosine", "algorithm": "brute"}
    expected = auroc(truth, KNeighborsRegressor(20, **weights).fit(x, y).predict(new))
    np.testing.assert_allclose(knn_probe(x, y, new, truth), expected, atol=1e-9)
    holes = y.copy()
    holes[100:, 0] = np.nan
    actual = knn_probe(x, holes, new, truth)
    assert actual[0] == pytest.approx(knn_probe(x[:100], y[:100], new, truth)[0], abs=1e-12)
    assert actual[1] == pytest.approx(expected[1], abs=1e-12)
    assert np.isnan(knn_probe(x, np.zeros_like(y), new, truth)).all()
    assert np.isnan(knn_probe(np.full_like(x, np.nan), y, new, truth)).all()
    assert np.isfinite(knn_probe(x[:5], np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0]], new, truth)).all()


@pytest.mark.parametrize(("n", "features"), [(200, 10), (30, 50)])
def test_rankme_is_the_entropy_of_the_singular_values(n, features):
    x, _ = made(n, features)
    singular = np.linalg.svd(x, compute_uv=False)
    share = singular / singular.sum()
    assert rankme(x) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    assert rankme(np.tile(x[0], (n, 1))) == pytest.approx(1.0, abs=1e-4)
    assert rankme(np.zeros((5, 3))) is None
    assert rankme(np.full((5, 3), np.nan)) is None
