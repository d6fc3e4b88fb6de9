import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_deploy.export import ranges
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_deploy.export.quantise import _inferred


def histogram(values):
    return np.histogram(values, bins=ranges.BINS)


def test_minmax_spans_all_and_zero():
    assert ranges.minmax(*histogram(np.array([1.0, 5.0]))) == (0, 5)
    assert ranges.minmax(*histogram(np.array([-3.0, -1.0]))) == (-3, 0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 50))
def test_percentile_leaves_the_tails_out(seed, scale):
    values = np.random.default_rng(seed).normal(0, scale, 50_000)
    low, high = ranges.percentile(*histogram(values))
    width = (values.max() - values.min()) / ranges.BINS
    assert low == pytest.approx(np.quantile(values, ranges.TAIL), abs=2 * width)
    assert high == pytest.approx(np.quantile(values, 1 - ranges.TAIL), abs=2 * width)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_squared_error_finds_the_range_that_rounds_best(seed):
    """Against quantising every value with every candidate range, in float64."""
    values = np.random.default_rng(seed).standard_t(3, 20_000)
    actual = ranges.squared_error(*histogram(values))

    def error(share):
        low, high = min(values.min(), 0) * share, max(values.max(), 0) * share
        step = (high - low) / 255
        rounded = np.rint((np.clip(values, low, high) - low) / step) * step + low
        return np.mean((rounded - values) ** 2)

    errors = {share: error(share) for share in ranges.CLIPPED}
    chosen = min(ranges.CLIPPED, key=lambda share: abs(max(values.max(), 0) * share - actual[1]))
    assert errors[chosen] <= 1.02 * min(errors.values())


def test_heavy_tails_are_clipped_and_uniform_values_are_not():
    rng = np.random.default_rng(0)
    uniform = histogram(rng.uniform(0, 1, 100_000))
    assert ranges.squared_error(*uniform)[1] == pytest.approx(1, abs=0.03)
    # Least of (3 s / 255)^2 / 12 + (3 - 3 s)^2 / 100,001 at s = 0.887.
    heavy = np.append(rng.uniform(0, 1, 100_000), 3.0)
    assert ranges.squared_error(*histogram(heavy))[1] == pytest.approx(3 * 0.887, abs=0.06)


def test_observed_histograms_hold_every_value(lively, radiographs):
    network, header = lively(size=32)
    model = convert(Answering(network, header), header)
    images = radiographs(6, 32)
    actual = ranges.observe(_inferred(model), lambda: [images[:4], images[4:]], threads=1)
    counts, edges = actual["logits"]
    assert counts.sum() == 6 * 3
    from cxr_deploy import runtimes

    logits = runtimes.in_onnxruntime(model.SerializeToString())(images)["logits"]
    assert edges[0] == pytest.approx(logits.min(), abs=1e-5)
    assert edges[-1] == pytest.approx(logits.max(), abs=1e-5)
    around = np.concatenate([[edges[0] - 1e-5], edges[1:-1], [edges[-1] + 1e-5]])  # another session rounds otherwise
    np.testing.assert_array_equal(np.histogram(logits, around)[0].sum(), 18)
