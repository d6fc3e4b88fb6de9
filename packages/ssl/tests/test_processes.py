import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cxr_data import Cohort, save
from cxr_data.command_line.command import config_dict
from cxr_ssl.config import Crops, PretrainConfig
from cxr_ssl.methods.byol import BYOLConfig
from cxr_ssl.methods.dino import DINOConfig
from cxr_ssl.methods.swav import SwAVConfig

HERE = Path(__file__).parent

InTwo = Callable[..., list[tuple[int, str]]]


def alone_and_together(in_two_processes: InTwo, target: Path) -> list[dict[str, torch.Tensor]]:
    """What the script finds with one process holding everything, and with two that share."""
    for code, said in in_two_processes(str(HERE / "two_processes.py"), str(target)):
        assert code == 0, said
    return torch.load(target, weights_only=True)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_joined_batch(tmp_path, in_two_processes):
    alone, together = alone_and_together(in_two_processes, tmp_path / "results.pt")
    gradients = [name for name in alone if name[0].isdigit()]
    assert len(gradients) > 20
    assert "1 prototypes.weight" not in gradients  # frozen
    assert "2 prototypes.weight" in gradients
    assert {"codes", "uneven", "numbers", "prototypes.weight"} < alone.keys()
    assert alone.keys() == together.keys()
    for name in alone:
        # The rank takes square roots of small eigenvalues, where rounding counts more.
        tolerance = 1e-4 if name == "numbers" else 1e-5
        torch.testing.assert_close(together[name], alone[name], atol=tolerance, rtol=0, msg=name)


def config_of(tmp_path: Path, run: str, **changes: Any) -> Path:
    """A file with the config of a tiny run on noise, with a queue."""
    data = tmp_path / "noise"
    if not data.exists():
        random = np.random.default_rng(0)
        names = [f"{i}" for i in range(44)]
        table = pl.DataFrame({"image": names, "patient": names, "split": ["train"] * 44})
        pixels = random.integers(0, 256, (44, 48, 48), dtype=np.uint8)
        save(Cohort("noise", None, (), table, pixels, {}, "noise", "0"), data)
    config = PretrainConfig(
        data=str(data),
        runs_dir=str(tmp_path / "runs"),
        run=run,
        architecture="test_resnet",
        size=32,
        crops=Crops(local_count=1),
        epochs=2,
        batch_size=20,
        accumulate=2,
        swav=SwAVConfig(prototypes=40, embedding=8, queue=1, freeze=2),
        dino=DINOConfig(prototypes=40, hidden=16, bottleneck=8),
        byol=BYOLConfig(8, 16),
        on_collapse="warn",
        **changes,
    )
    file = tmp_path / f"{run}.yaml"
    file.write_text(yaml.safe_dump(config_dict(config)))
    return file


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["swav", "dino", "byol"])
def test_a_sigterm_to_one_of_two_processes_stops_both_and_both_resume_exactly(tmp_path, in_two_processes, method):
    """Epochs have 2 steps, fewer than the ten after which processes ask one another: both stop at the epoch's end."""
    script = str(HERE / "whole_run.py")
    for code, said in in_two_processes(script, str(config_of(tmp_path, "whole", method=method)), "0"):
        assert code == 0, said
    stopped = str(config_of(tmp_path, "stopped", method=method))
    for code, said in in_two_processes(script, stopped, "1"):
        assert code == 143, said
    folder = tmp_path / "runs" / "stopped" / "ssl"
    assert torch.load(folder / "state.pt", weights_only=True)["epoch"] == 1
    for code, said in in_two_processes(script, stopped, "0"):
        assert code == 0, said
    folders = [tmp_path / "runs" / run / "ssl" for run in ("whole", "stopped")]
    assert all(json.loads((folder / "done.json").read_text())["processes"] == 2 for folder in folders)
    one, other = (load_file(folder / "backbone.safetensors") for folder in folders)
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(folder / "metrics.jsonl").read_text() for folder in folders]
    assert logs[0] == logs[1]


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_what_two_processes_began_one_finishes(tmp_path, in_two_processes):
    script, stopped = str(HERE / "whole_run.py"), str(config_of(tmp_path, "stopped", method="swav"))
    for code, said in in_two_processes(script, stopped, "1"):
        assert code == 143, said
    folder = tmp_path / "runs" / "stopped" / "ssl"
    two = torch.load(folder / "state.pt", weights_only=True)
    assert two["per_process"]["method queue"].shape[0] == 2
    done = subprocess.run([sys.executable, script, stopped, "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "begun with 2 processes, resumed with 1" in done.stdout
    assert json.loads((folder / "done.json").read_text())["processes"] == 1
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == [1, 2]
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "backbone.safetensors").values())
