import json

import pytest

from cxr_data.errors import BadInput
from cxr_distill.config import DistillConfig, FinetuneConfig
from cxr_distill.seeds import each_seed
from cxr_distill.stages import distill, finetune

TINY = {"size": 32, "batch_size": 16, "epochs": 1, "precision": "fp32", "run": "try"}


def test_every_seed_has_its_folder_and_the_mean_its_interval(tmp_path, toy_folder, capsys) -> None:
    config = FinetuneConfig(
        data=str(toy_folder), runs_dir=str(tmp_path), architecture="test_resnet", seeds=[3, 4], start="random", **TINY
    )
    models = each_seed(config, finetune)
    run = tmp_path / "try"
    assert models == [run / f"teacher-seed{seed}" / "model.safetensors" for seed in (3, 4)]
    summary = json.loads((run / "teacher-seeds.json").read_text())
    done = [json.loads((model.parent / "done.json").read_text())["val_auroc"] for model in models]
    assert summary["seeds"] == [3, 4]
    assert summary["val_auroc"]["values"] == done
    assert summary["val_auroc"]["mean"] == pytest.approx(sum(done) / 2)
    # With two seeds Student's quantile is 12.7 and the standard error half the difference.
    assert summary["val_auroc"]["half_width"] == pytest.approx(12.706 * abs(done[0] - done[1]) / 2, abs=1e-4)
    assert f"teacher, 2 seeds: val_auroc {summary['val_auroc']['mean']:.4f} ± " in capsys.readouterr().out
    before = [model.stat().st_mtime_ns for model in models]
    assert each_seed(config, finetune) == models  # nothing is trained twice
    assert [model.stat().st_mtime_ns for model in models] == before


def test_the_control_of_a_seed_keeps_the_seed_at_the_end(tmp_path, toy_folder) -> None:
    given = {"data": str(toy_folder), "runs_dir": str(tmp_path), **TINY}
    teacher = finetune(FinetuneConfig(architecture="test_resnet", start="random", **given))
    config = DistillConfig(teacher=[str(teacher)], student="test_resnet", control=True, seeds=[0, 1], **given)
    each_seed(config, distill)
    run = tmp_path / "try"
    folders = {path.parent.name for path in run.glob("*/model.safetensors")}
    pairs = {f"test_resnet{middle}-seed{seed}" for middle in ("", "-control") for seed in (0, 1)}
    assert folders == {"teacher"} | pairs
    summary = json.loads((run / "test_resnet-seeds.json").read_text())
    gains = [json.loads((run / f"test_resnet-seed{seed}" / "gain.json").read_text())["gain"] for seed in (0, 1)]
    assert summary["gain"]["values"] == gains


def test_a_seed_is_given_once() -> None:
    with pytest.raises(BadInput, match="every seed once"):
        FinetuneConfig(seeds=[0, 1, 0])
