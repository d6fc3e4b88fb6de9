import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_data.augment import ViewSpec
from cxr_data.errors import BadInput
from cxr_data.models.metrics import auroc
from cxr_distill.config import DistillConfig
from cxr_distill.data import Batch
from cxr_distill.ensemble import joint_logits, label_weights
from cxr_distill.losses import FitNets, MultilabelKD, build_losses
from cxr_distill.teacher import load_teacher
from cxr_distill.teachers import Distillation, Teachers, check_teachers, prepare
from cxr_distill.train import train

LABELS = ("square", "rare")


def teacher_file(folder: Path, size: int, seed: int, architecture: str = "test_resnet") -> Path:
    torch.manual_seed(seed)
    header = Header("model", architecture, Input(size, 0.3 + seed / 10, 0.2), task="multilabel", labels=LABELS)
    path = folder / f"{architecture}-{size}-{seed}.safetensors"
    save(path, build(architecture, 2, size=size), header)
    return path


def several(folder: Path, **changes) -> Distillation:
    files = [teacher_file(folder, 32, 0), teacher_file(folder, 48, 1), teacher_file(folder, 48, 2, "test_vit")]
    loaded = tuple(load_teacher(file, LABELS, "multilabel") for file in files)
    return Distillation(loaded, {MultilabelKD(): 1.0}, 0.5, **changes)


def test_weights_follow_validation_auroc() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((200, 2)) < 0.4).astype(np.float32)
    good = (2 * y + rng.normal(size=y.shape)).astype(np.float32)
    fair = (np.stack([3 * y[:, 0], 0.2 * y[:, 1]], 1) + rng.normal(size=y.shape)).astype(np.float32)
    answers = [good, fair, -good]
    areas = np.clip(np.stack([auroc(y, one) for one in answers]) - 0.5, 0, None)
    actual = label_weights(answers, y, "multilabel", "weighted")
    np.testing.assert_allclose(actual, areas / areas.sum(0), rtol=1e-6)
    assert label_weights(answers, y, "multilabel", "best_label").tolist() == [[0, 1], [1, 0], [0, 0]]
    assert label_weights(answers, y, "multilabel", "mean") == pytest.approx(1 / 3)
    assert label_weights(answers, y * np.nan, "multilabel", "best_label") == pytest.approx(1 / 3)
    both = label_weights([good, fair], np.eye(2, dtype=np.float32)[y[:, 0].astype(int)], "multiclass", "weighted")
    assert both[:, 0] == pytest.approx(both[:, 1])
    assert both.sum(0) == pytest.approx(1)


def test_joint_logits_are_the_weighted_mean() -> None:
    logits, weights = torch.randn(3, 5, 2), torch.tensor([[0.2, 0.0], [0.3, 1.0], [0.5, 0.0]])
    expected = np.einsum("tbl,tl->bl", logits.double().numpy(), weights.double().numpy())
    np.testing.assert_allclose(joint_logits(logits, weights).numpy(), expected, atol=1e-6)


def test_each_teacher_sees_the_view_at_its_own_size(tmp_path) -> None:
    guide = several(tmp_path)
    weights = torch.tensor([[0.2, 0.5], [0.3, 0.25], [0.5, 0.25]])
    teachers = Teachers(guide, weights, np.zeros((0, 2), np.float32))
    assert teachers.sizes == (32, 48)
    small, large = (torch.randint(0, 256, (4, 1, s, s), dtype=torch.uint8) for s in (32, 48))
    seen = teachers.outputs(Batch(small, torch.zeros(4, 2), {32: small, 48: large}, {})).joint
    assert seen is not None
    own = [t(small if t.size == 32 else large).logits for t in guide.teachers]
    torch.testing.assert_close(seen.logits, sum(w * z for w, z in zip(weights, own, strict=True)))
    assert seen.classifier_weight is None


def test_several_teachers_cached_answer_as_live(tmp_path, multilabel_cohort, monkeypatch) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    cohort, engine = multilabel_cohort, start_engine("fp32")
    rows = cohort.rows("train")
    cached, live = (
        prepare(
            several(tmp_path, ensemble="weighted", cached_views=1, use_cache=how), cohort, rows, ViewSpec(32), engine
        )
        for how in (True, False)
    )
    assert cached.sizes == ()
    assert cached.validation is not None
    assert live.validation is not None
    np.testing.assert_allclose(cached.validation, live.validation, atol=1e-5)
    torch.testing.assert_close(cached.weights, live.weights)
    assert len(list((tmp_path / "cache" / "teachers").iterdir())) == 3


def test_losses_that_these_teachers_cannot_serve() -> None:
    one = {"task": "multilabel", "teachers": 1, "ensemble": "mean", "cached_views": 0}

    def check(*names: str, **changes: object) -> None:
        check_teachers(build_losses(dict.fromkeys(names, 1.0)), **{**one, **changes})

    check("fitnets", "led")
    check("multilabel_kd", "led", "pkt", "pooled_cosine", cached_views=4)
    check_teachers({FitNets(feature="pooled"): 1.0}, **{**one, "cached_views": 4})
    with pytest.raises(BadInput, match="fitnets, which reads the maps of level4"):
        check("multilabel_kd", "fitnets", cached_views=4)
    with pytest.raises(BadInput, match="cam, which reads the maps of level4"):
        check("cam", cached_views=1)
    with pytest.raises(BadInput, match="several teachers"):
        check("pkt", teachers=2)
    with pytest.raises(BadInput, match="weighted or mean"):
        check("kd", task="multiclass", teachers=2, ensemble="best_label")
    check("multilabel_kd", teachers=2, ensemble="best_label")


def test_a_student_of_the_teachers_own_architecture_among_several(tmp_path, multilabel_cohort) -> None:
    cohort = multilabel_cohort
    config = DistillConfig(size=32, batch_size=16, epochs=6, precision="fp32", student="test_resnet")
    guide = several(tmp_path, ensemble="best_label")
    train(config, "test_resnet", tmp_path / "s", cohort, start_engine("fp32"), distillation=guide)
    lines = [json.loads(line) for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["multilabel_kd"] < 0.8 * lines[0]["multilabel_kd"]
    for line in lines:
        assert line["task_share"] + line["multilabel_kd_share"] == pytest.approx(1)


def test_unlabelled_images_move_the_student(tmp_path, multilabel_cohort) -> None:
    """With half of the images unlabelled, what the teacher says of just these still counts."""
    cohort = multilabel_cohort
    guide = Distillation(several(tmp_path).teachers[:1], {MultilabelKD(): 1.0}, 1.0)
    targets = cohort.targets.copy()
    unlabelled = cohort.rows("train")[::2]
    targets[unlabelled] = np.nan
    table = cohort.table.with_columns(
        pl.Series(f"label:{name}", targets[:, i]).fill_nan(None) for i, name in enumerate(LABELS)
    )
    partly = replace(cohort, table=table)
    config = DistillConfig(size=32, batch_size=16, epochs=1, precision="fp32", student="test_resnet")
    used = []
    for name, which in (("same", cohort.pixels), ("other", cohort.pixels.copy())):
        if name == "other":
            which[unlabelled] = 255 - which[unlabelled]
        one = replace(partly, pixels=which)
        train(config, "test_resnet", tmp_path / name, one, start_engine("fp32"), distillation=guide)
        used.append(json.loads((tmp_path / name / "done.json").read_text()))
    assert used[0]["train_images"] == len(cohort.rows("train"))
    assert used[0]["sha256"] != used[1]["sha256"]
