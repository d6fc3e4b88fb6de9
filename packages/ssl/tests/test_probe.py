import numpy as np
import pytest
from sklearn.linear_model import Ridge

from cxr_data.metrics import auroc
from cxr_ssl.probe import PENALTIES, _ridge_scores, linear_probe


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
    found = linear_probe(x, holes, new, truth)
    assert found[0] == pytest.approx(expected[0], abs=1e-12)
    assert found[1] == pytest.approx(linear_probe(x, y, new, truth)[1], abs=1e-12)


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
