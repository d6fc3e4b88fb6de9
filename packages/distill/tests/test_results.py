"""What a weights file says of the answers of its network."""

from dataclasses import replace

import numpy as np
import polars as pl

from cxr_common.checkpoint import Header, Input, describe, save
from cxr_common.models.zoo import build
from cxr_distill import results
from cxr_distill.config import Decision


def test_a_label_that_one_validation_patient_has_gets_no_threshold(tmp_path, multilabel_cohort, capsys) -> None:
    rows = multilabel_cohort.rows("val")
    rare = multilabel_cohort.table["label:rare"].to_numpy().copy()
    rare[rows] = multilabel_cohort.groups[rows] == multilabel_cohort.groups[rows[0]]
    table = multilabel_cohort.table.with_columns(pl.Series("label:rare", rare))
    logits = np.random.default_rng(0).normal(size=(len(rows), 2)).astype(np.float32)
    actual = results._decisions(Decision(), replace(multilabel_cohort, table=table), logits, "run")
    assert actual["thresholds"][0] is not None
    assert actual["thresholds"][1] is None
    assert "run: warning: only one validation patient with rare: its threshold of 0.5" in capsys.readouterr().out
    header = Header("model", "test_resnet", Input(32, 0.5, 0.2), **actual)
    save(tmp_path / "model.safetensors", build("test_resnet", 2, size=32), header)
    assert describe(tmp_path / "model.safetensors").thresholds == header.thresholds
