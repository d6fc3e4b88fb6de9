"""The road on real radiographs, in small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]  # minutes where other work runs beside it


def run(*arguments: object) -> str:
    script = Path(sys.executable).with_name(str(arguments[0]))
    done = subprocess.run([str(script), *map(str, arguments[1:])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pretrain_fit_distil_evaluate(shared_data, tmp_path) -> None:
    data = ["--data", shared_data / "kermany_pneumonia", "--runs_dir", tmp_path]
    small = ["--size", 32, "--batch_size", 64]
    run("ssl-pretrain", *data, *small, "--architecture", "resnet18", "--epochs", 1)
    run("distill", *data, *small, "--student", "resnet18", "--epochs", 2)
    run("evaluate", *data)
    report = json.loads((tmp_path / "quickstart" / "report" / "metrics.json").read_text())
    assert report["images"] == 624
    assert report["labels"] == ["NORMAL", "PNEUMONIA"]
    for name in ("teacher", "resnet18"):
        overall = report["models"][name]["overall"]
        # A coin gives .5; thumbnails and a ridge regression .90. Two epochs at 32 px must be far from the first.
        assert overall["auroc"]["value"] > 0.8, name
        assert overall["auroc"]["low"] < overall["auroc"]["value"] < overall["auroc"]["high"]
