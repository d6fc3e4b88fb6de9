"""Small models and answers to evaluate."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import build
from cxr_eval import results, subgroups
from cxr_eval.metrics.records import METRICS
from cxr_eval.predictions import Answers


@pytest.fixture
def make_model(tmp_path: Path):
    """Writes a classifier with random weights and returns its path: make_model(name, labels, task, **header)."""

    def make(name: str, labels: tuple[str, ...], task: str, *, seed: int = 0, **header: Any) -> Path:
        torch.manual_seed(seed)
        size = header.pop("size", 32)
        settings = {"kind": "model", "architecture": "baseline_cnn", "input": Input(size, 0.5, 0.25), **header}
        path = tmp_path / "runs" / "quickstart" / name / "model.safetensors"
        network = build(settings["architecture"], len(labels), size=size)
        checkpoint.save(path, network, Header(task=task, labels=labels, **settings))
        return path

    return make


@pytest.fixture(scope="session")
def make_document_once():
    """``make_document`` for fixtures that outlive a test."""
    return build_document


@pytest.fixture
def make_document():
    """Builds (document, targets, answers) of a made-up comparison: make_document(task, labels, models)."""

    return build_document


def build_document(task: str, labels: list[str], models: dict[str, float], n: int = 300, *, speed: bool = True):
    rng = np.random.default_rng(0)
    if task == "multiclass":
        targets = np.eye(len(labels), dtype=np.float32)[rng.integers(0, len(labels), n)]
    else:
        targets = (rng.random((n, len(labels))) < 0.2).astype(np.float32)
        targets[rng.random(targets.shape) < 0.05] = np.nan
        targets[:, -1] = 0  # a label without positives
    answers = {}
    for name, skill in models.items():
        z = np.nan_to_num(targets) * skill + rng.normal(size=targets.shape)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) if task == "multiclass" else 1 / (1 + np.exp(-z))
        chosen = p >= p.max(axis=1, keepdims=True) if task == "multiclass" else p >= 0.6
        # The first model stores a temperature, the others none.
        raw = (p**1.3 / (p**1.3).sum(axis=1, keepdims=True) if task == "multiclass" else p**0.8, 1.3)
        answers[name] = Answers(p, chosen, *(raw if not answers else (None, None)))
    patient, weights = results.draws_of(np.arange(n) // 2, 60, 0)
    controls = {name: f"{name}-control" for name in models if f"{name}-control" in models}
    measured = results.measure(task, labels, targets, answers, patient, weights, controls=controls)
    columns = results.reported(task, labels)
    sex = np.array(["F", "M"])[np.arange(n) // 2 % 2]
    sex[:6] = "O"
    people = pl.DataFrame({"sex": sex, "age": rng.integers(1, 90, n // 2).repeat(2)})
    shown = [labels[i] for i in columns]
    groupings = subgroups.groupings(people, [])
    by_group = subgroups.measure(groupings, shown, columns, targets, answers, patient, weights)
    split = {
        "images": n,
        "patients": n // 2,
        "positive": {label: int(np.nansum(targets[:, i])) for i, label in enumerate(labels)},
        "unknown": {label: int(np.isnan(targets[:, i]).sum()) for i, label in enumerate(labels)},
    }
    file = {
        "path": "runs/quickstart/x/model.safetensors",
        "sha256": "0" * 64,
        "architecture": "resnet18",
        "input_size": 64,
        "labels": labels,
        "fitted_thresholds": True,
        "temperature": 1.2,
        "parents": [{"role": "teacher", "path": "t.safetensors", "sha256": "1" * 64}],
        "cohort": {"name": "c", "source": "c", "fingerprint": "2" * 64},
        "config": {"lr": 0.1},
        "seed": 0,
        "versions": {"torch": "2"},
        "git": None,
    }
    timing = {
        "latency_ms_p50": 12.5,
        "latency_ms_p95": 14.0,
        "latency_ms_p99": 15.0,
        "images_per_second": 99.0,
        "batch": 8,
        "runtime": "PyTorch",
        "precision": "fp32",
        "threads": 1,
        "warm_up": 3,
        "runs": 9,
        "device": "a CPU",
        "peak_bytes": 412_000_000,
    }
    thresholds = None
    if task == "multilabel" or len(labels) == 2:
        thresholds = dict.fromkeys(labels, 0.5 if task == "multiclass" else 0.6)
    document = {
        "schema": 4,
        "task": task,
        "split": "test",
        "labels": labels,
        "headline": results.headline(task, labels),
        "images": n,
        "patients": n // 2,
        "intervals": {
            "level": 0.95,
            "resamples": 60,
            "unit": "patient",
            "least_patients": 5,
            "methods": {name: metric.interval for name, metric in METRICS.items()},
            "seed": 0,
        },
        "cohort": {
            "name": "a cohort",
            "source": "somewhere",
            "fingerprint": "2" * 64,
            "task": task,
            "labels": labels,
            "pixel_size": 64,
            "pixel_mapping": {"aspect": "squash"},
            "notes": ["split by us"],
            "broken": 2,
            "shared_patients": {},
            "splits": {"train": split, "val": split, "test": split},
        },
        "models": {
            name: {
                "file": file,
                "size": {"parameters": 11_200_000, "macs": 1_800_000_000, "bytes": 45_000_000},
                "speed": {**timing, "latency_ms_p50": 12.5 * (i + 1)} if speed else None,
                "thresholds": thresholds,
                "cohort": "external" if name == "guest" else "internal",
                "training_images": {"evaluated": n, "identical": 0, "copies": 0, "not_compared": None},
                **measured["models"][name],
                "subgroups": by_group["models"][name],
            }
            for i, name in enumerate(models)
        },
        "differences": measured["differences"],
        "gains": measured["gains"],
        "noninferiority": measured["noninferiority"],
        "subgroups": {"columns": by_group["columns"], "gaps": by_group["gaps"]},
        "notes": ["A note."],
        "provenance": {
            "versions": {"python": "3"},
            "git": "abc",
            "created": "2026-01-01T00:00:00+00:00",
            "command": "uv run evaluate a b",
            "config": {"split": "test"},
            "device": "a CPU",
            "precision": "fp32",
        },
    }
    return document, targets, answers
