"""Commands on a pretended CUDA device: faults of device placement show without a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "support" / "pretended_cuda.py"


def pretended(folder: Path, command: str, *arguments: str) -> str:
    common = ["--data", "phantom:60", "--size", "32", "--batch_size", "8", "--epochs", "1", "--precision", "fp32"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), command, *common, "--runs_dir", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "device fault" not in done.stdout
    return done.stdout


@pytest.mark.nightly
@pytest.mark.parametrize(
    "how",
    [
        "--cached_views 1 --augment_on_device true",
        "--cached_views 1 --bits 8 --epochs 2",
        "--loss simkd=1 --loss rkd=1 --loss crd=1 --loss pkt=1 --loss sp=1 --loss cam=1 --loss reviewkd=1",
        "--optim.mixup 0.2 --optim.ema 0.9 --loss led=1 --loss fitnets=1 --loss attention_transfer=1",
    ],
)
def test_teacher_and_student_on_a_device(tmp_path, how) -> None:
    pretended(tmp_path, "finetune", "--architecture", "test_resnet", "--start", "random")
    pretended(tmp_path, "distill", "--student", "test_resnet", "--name", "student", *how.split())
    for stage in ("teacher", "student"):
        assert json.loads((tmp_path / "quickstart" / stage / "done.json").read_text())["device"] == "cuda:0"


@pytest.mark.parametrize(
    "command",
    [
        "finetune --architecture test_resnet --start random --augment_on_device true",
        "ssl-pretrain --architecture test_resnet --crops.local_count 2",
        "ssl-pretrain --architecture test_resnet --crops.local_count 2 --method dino",
        "ssl-pretrain --architecture test_resnet --crops.local_count 2 --method byol --augment_on_device true",
    ],
)
@pytest.mark.nightly
def test_no_step_waits_for_the_device(tmp_path, command) -> None:
    said = pretended(tmp_path, *command.split())
    assert "step waits" not in said, said


@pytest.mark.nightly
def test_answers_on_a_device_are_those_of_the_cpu() -> None:
    """What `predict`, `benchmark-model` and `evaluate` compute there."""
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import numpy as np, torch, pretended_cuda
from cxr_common.inference import outputs
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data.models.header import Header, Input
from cxr_deploy.export.torch_runtime import in_torch
torch.manual_seed(0)
network = GrayNetwork(build("test_resnet", 2, size=32), 0.5, 0.25).eval()
header = Header("model", "test_resnet", Input(32, 0.5, 0.25), task="multilabel", labels=("A", "B"))
pixels = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), np.uint8)
expected = in_torch(network, header)(pixels)["logits"]
pretended_cuda.install()
found = in_torch(network, header, device="cuda")(pixels)["logits"]
assert next(network.parameters()).device.type == "cuda"
logits = outputs(network, pixels[:, 0], np.arange(5), 32, batch_size=2)
assert not pretended_cuda.FAULTS, pretended_cuda.FAULTS
for one in (found, logits):
    np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_it_finds_what_would_fail_on_a_device() -> None:
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
import torch, pretended_cuda
pretended_cuda.install()
x = torch.zeros(2, 3).to("cuda")
assert x.device.type == "cuda" and (x + 1).cpu().numpy().sum() == 6
for wrong in (lambda: x.numpy(), lambda: x + torch.zeros(2, 3), lambda: torch.zeros(4)[x.long()[0]]):
    try:
        wrong()
    except (TypeError, RuntimeError):
        continue
    raise SystemExit("not found")
assert len(pretended_cuda.FAULTS) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
