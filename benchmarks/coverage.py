"""How often the 95 % intervals cover the truth, in simulated cohorts.

``python benchmarks/coverage.py [COHORTS] [--write]``

Cohorts are clustered by patient: 1 to 8 images each, with correlated labels (.7 on the latent scale) and correlated
errors of the model (.5); the second model shares part of its errors with the first. The truth is that of 150,000
patients.
``--write`` puts the table into docs/metrics.md.
"""

import argparse
import collections
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from cxr_common.gain import auroc_gain
from cxr_eval import METRICS, compare, evaluate
from cxr_eval.metrics.compute import per_label

THRESHOLD = 0.3
METRIC_NAMES = [name for name, metric in METRICS.items() if metric.interval != "none"]
DIFFERENCES = ["auroc", "auprc", "f1", "recall", "specificity", "brier"]
PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"


@dataclass(frozen=True)
class Setting:
    """One kind of cohort.

    Attributes:
        name: What it is called in the table.
        patients: Patients of a cohort.
        prevalences: Prevalence of each label.
    """

    name: str
    patients: int
    prevalences: tuple[float, ...]


SETTINGS = (
    Setting("150 patients, prevalence .3", 150, (0.3,)),
    Setting("40 patients, prevalence .3", 40, (0.3,)),
    Setting("60 patients, .4, .3, .2", 60, (0.4, 0.3, 0.2)),
    Setting("300 patients, .3, .1, .05, .03, .02", 300, (0.3, 0.1, 0.05, 0.03, 0.02)),
)


def cohort(rng: np.random.Generator, patients: int, prevalences: tuple[float, ...]) -> tuple[NDArray, ...]:
    """Targets, probabilities of two models, each (N, L), and (N,) patients."""
    labels = len(prevalences)
    patient = np.repeat(np.arange(patients), rng.geometric(0.4, patients).clip(max=8))

    def clustered(share: float) -> NDArray:
        shared = rng.normal(size=(patients, labels))[patient]
        return np.sqrt(share) * shared + np.sqrt(1 - share) * rng.normal(size=(len(patient), labels))

    targets = (clustered(0.7) > norm.isf(prevalences)).astype(float)
    common = clustered(0.5)
    first, second = (strength * targets + 0.8 * common + 0.6 * clustered(0.5) for strength in (1.2, 1.0))
    return targets, expit(1.4 * first - 2), expit(1.4 * second - 2), patient


def truth(setting: Setting) -> tuple[dict[str, NDArray], dict[str, NDArray]]:
    """Metrics (L,) of both models in the population."""
    targets, first, second, _ = cohort(np.random.default_rng(99), 150_000, setting.prevalences)
    one, other = (per_label(targets, p, p >= THRESHOLD, METRIC_NAMES) for p in (first, second))
    return one, other


def intervals(setting: Setting, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """(figure, label) -> interval in one cohort; figures without one are left out."""
    targets, first, second, patient = cohort(np.random.default_rng(seed), setting.patients, setting.prevalences)
    options = {"groups": patient, "threshold": THRESHOLD, "resamples": 400, "seed": seed}
    one = evaluate(targets, first, metrics=METRIC_NAMES, **options)
    both = compare(targets, first, second, metrics=DIFFERENCES, reference_threshold=THRESHOLD, **options)
    actual = {}
    for prefix, result in (("", one), ("difference of ", both)):
        scopes = dict(result.labels) | ({"macro": result.overall} if len(result.labels) > 1 else {})
        for label, figures in scopes.items():
            for key, figure in figures.items():
                if not np.isnan(figure.low):
                    actual[f"{prefix}{key}", label] = (figure.low, figure.high)
    gain = auroc_gain(targets, first, second, patient)
    if not np.isnan(gain.low):
        actual["auroc_gain", "macro" if len(setting.prevalences) > 1 else "0"] = (gain.low, gain.high)
    return actual


def covered(setting: Setting, cohorts: int, workers: int = 1) -> dict[tuple[str, str], tuple[int, int]]:
    """(figure, label) -> how many intervals there were and how many of them held the truth."""
    one, other = truth(setting)

    def true(figure: str, label: str) -> float:
        key = "auroc" if figure == "auroc_gain" else figure.removeprefix("difference of ")
        values = one[key] - other[key] if figure != key else one[key]
        return float(values.mean() if label == "macro" else values[int(label)])

    counts: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    jobs = [setting] * cohorts, range(cohorts)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            results = list(pool.map(intervals, *jobs, chunksize=10))
    else:
        results = list(map(intervals, *jobs))
    for result in results:
        for key, (low, high) in result.items():
            counts[key][0] += 1
            counts[key][1] += low <= true(*key) <= high
    return {key: (count[0], count[1]) for key, count in counts.items()}


def table(cohorts: int, workers: int) -> str:
    """The Markdown table: a row for each figure, a column for each label of each setting."""
    columns: list[tuple[str, dict[str, tuple[int, int]]]] = []
    for setting in SETTINGS:
        counts = covered(setting, cohorts, workers)
        labels = [str(i) for i in range(len(setting.prevalences))] + (["macro"] if len(setting.prevalences) > 1 else [])
        for label in labels:
            title = label if label == "macro" else f"{setting.prevalences[int(label)]:g}".lstrip("0")
            heading = f"{setting.patients} patients, {title}"
            columns.append((heading, {figure: n for (figure, of), n in counts.items() if of == label}))
        print(f"{setting.name}: done", flush=True)
    figures = [*METRIC_NAMES, *(f"difference of {key}" for key in DIFFERENCES), "auroc_gain"]
    lines = ["| figure | " + " | ".join(heading for heading, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    shares: dict[bool, list[float]] = {False: [], True: []}  # of figures, of differences
    for figure in figures:
        cells = []
        for _, counts in columns:
            n, hits = counts.get(figure, (0, 0))
            if n < cohorts / 4:  # of too few intervals a share says nothing
                cells.append("–")
                continue
            shares[figure not in METRIC_NAMES].append(100 * hits / n)
            cells.append(f"{100 * hits / n:.1f}")
        lines.append(f"| `{figure}` | " + " | ".join(cells) + " |")
    error = 100 * (0.95 * 0.05 / cohorts) ** 0.5
    singles, differences = (f"{min(values):.1f} to {max(values):.1f}" for values in shares.values())
    head = (
        f"Per cent of {cohorts} simulated cohorts (simulation error ± {error:.1f}) whose 95 % interval holds the "
        f"truth: {singles} of single figures, {differences} of differences."
    )
    return "\n".join([head, "", *lines])


def main() -> None:
    """Print the table, and write it into the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohorts", nargs="?", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    made = table(arguments.cohorts, arguments.workers)
    print(made)
    if arguments.write:
        text = PAGE.read_text("utf-8")
        pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
        PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}\n{made}\n{END}", text), "utf-8")


if __name__ == "__main__":
    main()
