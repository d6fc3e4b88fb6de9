"""Compare two tables of predictions as a reviewer would ask: paired, by patient, with intervals."""

import numpy as np
import polars as pl

from cxr_eval import compare, delong, evaluate

rng = np.random.default_rng(0)
labels = ["effusion", "mass"]
patients = np.repeat(np.arange(150), 2)  # two images per patient
truth = rng.random((300, 2)) < [0.3, 0.15]
made = {"old": truth * 0.3 + rng.random((300, 2)) * 0.7, "new": truth * 0.45 + rng.random((300, 2)) * 0.55}
tables = {name: pl.DataFrame(p, labels).with_columns(patient=pl.Series(patients)) for name, p in made.items()}

old, new = (tables[name].select(labels).to_numpy() for name in ("old", "new"))
groups = tables["new"]["patient"].to_numpy()
for label, figures in evaluate(truth, new, groups=groups, labels=labels, metrics=["auroc", "f1"]).labels.items():
    print(label, {name: f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for name, f in figures.items()})
gain = compare(truth, new, old, groups=groups, labels=labels, metrics=["auroc"]).overall["auroc"]
print(f"macro AUROC {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}], p = {gain.p:.3g}")
test = delong(truth[:, 0], new[:, 0], old[:, 0], groups=groups)
print(f"effusion, DeLong by patient: {test.difference:+.3f}, p = {test.p:.3g}")
