"""The whole of the figures at the size of ChestX-ray14's test part: ``pytest -n 0 -m benchmark benchmarks``."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource, time
import numpy as np, polars as pl
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
table = pl.DataFrame({**people, "view": rng.choice(["AP", "PA"], images)})
start = time.perf_counter(), time.process_time()
number, weights = results.resamples_of("multilabel", labels, targets, patient, 2_000, 0)
found = results.measure("multilabel", labels, targets, answers, number, weights)
main = time.perf_counter() - start[0]
groups = subgroups.measure(subgroups.groupings(table, []), labels, range(14), targets, answers, number, weights)
json.dumps([found, groups], allow_nan=False)
print(json.dumps({
    "seconds": time.perf_counter() - start[0], "without subgroups": main, "cpu": time.process_time() - start[1],
    "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_five_models_on_chestxray14_with_all_intervals_and_subgroups():
    """25,596 images x 14 labels x 5 models, 2,000 resamples: under 60 s on 2 cores, under 4 GiB."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    print(found)
    assert found["gib"] < 4
    assert found["seconds"] < 60
