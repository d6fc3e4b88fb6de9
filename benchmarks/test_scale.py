"""The whole of the figures at the size of ChestX-ray14's test part, in a process of its own.

uv run pytest benchmarks/test_scale.py -m benchmark -n 0 -s
"""

import json

import pytest

TITLE = "All figures of a report"
SCRIPT = """
import json, time
import numpy as np, polars as pl
from cxr_data.machine import peak_memory
from cxr_eval import results, subgroups
from cxr_eval.predictions import Answers

rng = np.random.default_rng(0)
images, labels, patients = 25_596, [f"finding {i}" for i in range(14)], 2_797
patient = rng.integers(0, patients, images)
targets = (rng.random((images, 14)) < np.geomspace(0.2, 0.004, 14)).astype(np.float32)
answers = {}
for m in range(5):
    z = targets * (1 + 0.2 * m) + rng.normal(size=targets.shape) - 2
    p, raw = (1 / (1 + np.exp(-k * z)) for k in (1, 1.5))
    answers[f"model {m}"] = Answers(p, p >= 0.3, raw, 1.5)
people = {"sex": rng.choice(["F", "M"], patients)[patient], "age": rng.integers(5, 95, patients)[patient]}
table = pl.DataFrame({**people, "projection": rng.choice(["AP", "PA"], images)})
start = time.perf_counter(), time.process_time()
number, weights = results.draws_of(patient, 2_000, 0)
document = results.measure("multilabel", labels, targets, answers, number, weights)
main = time.perf_counter() - start[0]
groups = subgroups.measure(subgroups.groupings(table, []), labels, range(14), targets, answers, number, weights)
json.dumps([document, groups], allow_nan=False)
print(json.dumps({
    "seconds": time.perf_counter() - start[0], "without subgroups": main, "cpu": time.process_time() - start[1],
    "gib": peak_memory() / 2**30,
}))
"""


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_five_models_on_chestxray14_with_all_intervals_and_subgroups(benchmark, own_process, record):
    """25,596 images x 14 labels x 5 models, 2,000 resamples: at most 60 s on 2 cores, at most 4 GiB."""
    document = json.loads(benchmark.pedantic(own_process, args=(SCRIPT,)))
    of = "5 models, 25,596 images, 14 labels, 2,000 resamples"
    shown = f"{document['without subgroups']:.1f} s without subgroups; {document['cpu']:.1f} s of processor time"
    record(f"Metrics, intervals, tests and subgroups of {of}", document["seconds"], "s", most=60, detail=shown)
    record(f"Peak memory of that process, {of}", document["gib"], "GiB", most=4)
