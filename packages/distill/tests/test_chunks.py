"""Training on a cohort in chunks: the same bits as on a memory map, or in windows where the cache is smaller."""

import json
import signal
import sys
from pathlib import Path

import fsspec
import pytest

from cxr_common.training.accelerator import start
from cxr_data import open_cohort
from cxr_data.cohorts.chunk_cache import chunk_cache
from cxr_data.cohorts.chunks import upload
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_distill import cli
from cxr_distill import train as loop
from cxr_distill.config import FinetuneConfig

EDGE = 48
CONFIG = FinetuneConfig(size=32, batch_size=8, epochs=2, precision="fp32", lr=3e-3, imbalance="balanced")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url(toy_cohort, tmp_path) -> str:
    address = f"memory://{tmp_path}/cohort"
    upload(toy_cohort, address, chunk_bytes=6 * EDGE**2)
    return address


def small_cache(url: str, monkeypatch: pytest.MonkeyPatch, chunks: int) -> int:
    """Let the cache hold so many chunks; its bytes."""
    limit = chunks * len(fsspec.filesystem("memory").cat_file(f"{url}/train-00000.npy"))
    monkeypatch.setenv("CXR_CACHE_GB", repr(limit / 1e9))
    return limit


def finetune(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The command; its exit code."""
    tiny = (
        "--size 32 --batch_size 16 --epochs 2 --start random --precision fp32 --architecture test_resnet --name model"
    )
    monkeypatch.setattr(sys, "argv", ["finetune", *tiny.split(), *flags])
    return cli.finetune()


def trained(folder: Path, url: str) -> Path:
    loop.train(CONFIG, "test_resnet", folder, open_cohort(url), start("fp32"))
    return folder


def test_the_command_writes_the_same_bytes_as_with_a_memory_map(tmp_path, toy_folder, url, capsys, monkeypatch) -> None:
    for run, data in (("local", toy_folder), ("remote", url)):
        assert finetune(monkeypatch, "--runs_dir", str(tmp_path / run), "--data", data) == 0
    assert url in capsys.readouterr().out  # in the command that comes next
    local, remote = (tmp_path / run / "quickstart" / "model" for run in ("local", "remote"))
    assert sha256(remote / "model.safetensors") == sha256(local / "model.safetensors")
    assert (remote / "metrics.jsonl").read_text() == (local / "metrics.jsonl").read_text()
    assert (remote / "run.json").read_text() == (local / "run.json").read_text()


def test_in_a_small_cache_a_stopped_run_resumes_to_the_same_bits(tmp_path, url, monkeypatch) -> None:
    limit = small_cache(url, monkeypatch, 3)
    whole = trained(tmp_path / "whole", url)
    taken, train_step = [], loop.train_step

    def interrupted(state, batch):
        taken.append(None)
        if len(taken) == 10:
            signal.raise_signal(signal.SIGTERM)
        return train_step(state, batch)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(SystemExit):
        trained(tmp_path / "cut", url)
    assert (tmp_path / "cut" / "state.pt").exists()
    small_cache(url, monkeypatch, 4)  # other images would come next
    with pytest.raises(BadInput, match=r"shuffle\.chunks was 2, now 3"):
        trained(tmp_path / "cut", url)
    small_cache(url, monkeypatch, 3)
    cut = trained(tmp_path / "cut", url)
    assert sha256(cut / "model.safetensors") == sha256(whole / "model.safetensors")
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert json.loads((cut / "run.json").read_text())["shuffle"]["chunks"] == 2
    assert 0 < sum(path.stat().st_size for path in chunk_cache().folder.glob("*.npy")) <= limit


def test_a_chunk_that_cannot_be_read_ends_the_command_with_one_message(tmp_path, url, capsys, monkeypatch) -> None:
    fsspec.filesystem("memory").rm_file(f"{url}/train-00001.npy")
    assert finetune(monkeypatch, "--runs_dir", str(tmp_path), "--data", url) == 2
    said = capsys.readouterr().err
    assert "no such file" in said
    assert f"{url}/train-00001.npy" in said
    assert "Traceback" not in said
