"""What a weights file says of the answers of its network."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from cxr_common.checkpoint import describe, save
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.state import Best
from cxr_distill import results
from cxr_distill.config import FinetuneConfig


def test_a_label_that_one_validation_patient_has_gets_no_threshold(tmp_path, multilabel_cohort) -> None:
    rows = multilabel_cohort.rows("val")
    rare = multilabel_cohort.table["label:rare"].to_numpy().copy()
    rare[rows] = multilabel_cohort.groups[rows] == multilabel_cohort.groups[rows[0]]
    table = multilabel_cohort.table.with_columns(pl.Series("label:rare", rare))
    network = GrayNetwork(build("test_resnet", 2, size=32), 0.5, 0.2)
    logits = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    run: Any = SimpleNamespace(extended=(), path=tmp_path)
    parts = (run, (), network, Best(1, (), {}, {}), logits)
    header = results._header(FinetuneConfig(size=32), "test_resnet", replace(multilabel_cohort, table=table), *parts)
    assert header.thresholds is not None
    assert header.thresholds[0] is not None
    assert header.thresholds[1] is None
    save(tmp_path / "model.safetensors", network, header)
    assert describe(tmp_path / "model.safetensors").thresholds == header.thresholds
