"""The road on real radiographs, in small."""

import json
import shutil
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]  # minutes where other work runs beside it


@pytest.fixture
def some(shared_data, tmp_path) -> Path:
    """Every fifth training image and the whole official test part, in the data set's own folders."""
    for part, every in (("train", 5), ("val", 1), ("test", 1)):
        for kind in ("NORMAL", "PNEUMONIA"):
            folder = tmp_path / "kermany" / part / kind
            folder.mkdir(parents=True)
            for image in sorted((shared_data / "kermany_pneumonia" / part / kind).iterdir())[::every]:
                shutil.copy(image, folder / image.name)
    return tmp_path / "kermany"


def test_pretrain_fit_distil_evaluate(some, tmp_path, typed) -> None:
    def run(*arguments: object) -> None:
        done = typed(*arguments)
        assert done.returncode == 0, done.stderr

    data = ["--data", some, "--runs_dir", tmp_path]
    small = ["--size", 32, "--batch_size", 32]
    run("ssl-pretrain", *data, *small, "--architecture", "resnet18", "--epochs", 1)
    run("distill", *data, *small, "--student", "resnet18", "--epochs", 3)
    run("evaluate", *data, "--speed", "false")
    report = json.loads((tmp_path / "quickstart" / "report" / "metrics.json").read_text())
    assert report["images"] == 624
    assert report["labels"] == ["NORMAL", "PNEUMONIA"]
    for name in ("teacher", "resnet18"):
        overall = report["models"][name]["overall"]
        # A coin gives .5; thumbnails and a ridge regression .90. Three epochs at 32 px must be far from the first.
        assert overall["auroc"]["value"] > 0.8, name
        assert overall["auroc"]["low"] < overall["auroc"]["value"] < overall["auroc"]["high"]
