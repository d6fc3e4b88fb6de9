"""Commands end with the next one to type; typed as they stand, they lead from images to a timed model."""

import json
import shlex
from collections.abc import Callable

import pytest
from PIL import Image

from cxr_data import open_cohort

MORE = {
    "finetune": "--architecture test_resnet --epochs 1 --runs_dir 'my runs' --name own --size 40",
    "distill": "--student test_resnet --epochs 1",
    "evaluate": "--resamples 50 --speed false --explain ''",
    "export-model": "--int8 false",
    "benchmark-model": "--seconds 0.1 --memory false",
}
"""What a person may add to the suggested commands, and what makes the test quick."""


@pytest.fixture
def says(typed, tmp_path) -> Callable[..., str]:
    """Types a command in the test's folder and gives what it says."""

    def run(*words: str) -> str:
        done = typed(*words, cwd=tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


def suggested(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.startswith("next:  ")]
    assert len(lines) == 1, said
    words = shlex.split(lines[0])
    assert words[:3] == ["next:", "uv", "run"]
    return words[3:]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_suggested_commands_lead_from_a_cohort_to_a_timed_model(says, tmp_path) -> None:
    said = says("cxr-data", "prepare", "phantom:60", "--size", "32", "--out", "my cohorts/small")
    seen = []
    for _ in range(len(MORE)):
        command = suggested(said)
        seen.append(command[0])
        said = says(*command, *shlex.split(MORE[command[0]]))
    assert seen == list(MORE)
    run = tmp_path / "my runs" / "small"
    assert {path.parent.name for path in run.glob("*/model.safetensors")} == {
        "own",
        "test_resnet",
        "test_resnet-control",
    }
    gains = json.loads((run / "report" / "metrics.json").read_text())["gains"]
    assert gains["test_resnet"]["control"] == "test_resnet-control"
    assert (run / "test_resnet" / "export" / "model.onnx").exists()
    assert (run / "benchmark" / "benchmark.svg").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"my cohorts", "my runs"}


@pytest.mark.slow
def test_images_alone_are_pretrained_and_no_classifier_is_fitted_to_them(says, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(open_cohort("phantom:60", pixel_size=64, show=False).pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    said = says("cxr-data", "prepare", "images", "--size", "32", "--out", "alone")
    command = suggested(said)
    assert command[0] == "ssl-pretrain"
    said = says(*command, "--architecture", "test_resnet", "--epochs", "1")
    assert "next:" not in said
    assert "finetune --data LABELLED" in said
