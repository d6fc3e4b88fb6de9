from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file

from cxr_data import Cohort, save
from cxr_data.command import config_dict
from cxr_ssl.config import Crops, PretrainConfig

HERE = Path(__file__).parent

InTwo = Callable[..., list[tuple[int, str]]]


def alone_and_together(in_two_processes: InTwo, target: Path) -> list[dict[str, torch.Tensor]]:
    """What the script finds with one process holding everything, and with two that share."""
    for code, said in in_two_processes(str(HERE / "two_processes.py"), str(target)):
        assert code == 0, said
    return torch.load(target, weights_only=True)


def test_two_processes_do_what_one_does_with_the_joined_batch(tmp_path, in_two_processes):
    alone, together = alone_and_together(in_two_processes, tmp_path / "results.pt")
    gradients = [name for name in alone if name[0].isdigit()]
    assert len(gradients) > 20
    assert "1 prototypes.weight" not in gradients  # frozen
    assert "2 prototypes.weight" in gradients
    assert {"codes", "uneven", "numbers", "prototypes.weight"} < alone.keys()
    assert alone.keys() == together.keys()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=0, msg=name)


def config_of(tmp_path: Path, run: str) -> Path:
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
        prototypes=40,
        embedding=8,
        queue=1,
        freeze=2,
        on_collapse="warn",
    )
    file = tmp_path / f"{run}.yaml"
    file.write_text(yaml.safe_dump(config_dict(config)))
    return file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sigterm_to_one_of_two_processes_stops_both_and_both_go_on_exactly(tmp_path, in_two_processes):
    script = str(HERE / "whole_run.py")
    for code, said in in_two_processes(script, str(config_of(tmp_path, "whole")), "0"):
        assert code == 0, said
    stopped = str(config_of(tmp_path, "stopped"))
    for code, said in in_two_processes(script, stopped, "3"):  # in the second epoch, before its last step
        assert code == 143, said
    folder = tmp_path / "runs" / "stopped" / "ssl"
    assert (folder / "state.pt").exists()
    for code, said in in_two_processes(script, stopped, "0"):
        assert code == 0, said
    one, other = (load_file(tmp_path / "runs" / run / "ssl" / "backbone.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(tmp_path / "runs" / run / "ssl" / "metrics.jsonl").read_text() for run in ("whole", "stopped")]
    assert logs[0] == logs[1]
