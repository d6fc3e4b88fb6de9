"""Students of encoders without a classifier: no labels needed, and none looked at."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cxr_common.checkpoint import Header, Input, describe, load, save
from cxr_common.models.zoo import build
from cxr_common.training.accelerator import start as start_engine
from cxr_data import open_cohort
from cxr_data.augment import ViewSpec
from cxr_data.errors import BadInput
from cxr_data.files import sha256
from cxr_distill import stages
from cxr_distill.config import DistillConfig, FinetuneConfig
from cxr_distill.data import Batch, without_labels
from cxr_distill.losses import build_losses
from cxr_distill.teacher import Teacher, load_encoder
from cxr_distill.teachers import Distillation, check_encoders, prepare, scale_of
from cxr_distill.train import train

SMALL = {"size": 32, "batch_size": 16, "epochs": 3, "precision": "fp32", "lr": 3e-3, "student": "test_resnet"}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))


def backbone(folder: Path, architecture: str = "test_resnet", size: int = 48, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    path = folder / f"{architecture}-{size}" / "backbone.safetensors"
    save(path, build(architecture, 0, size=size), Header("backbone", architecture, Input(size, 0.4, 0.2)))
    return path


def foreign(folder: Path) -> Path:
    """Three channels of their own means, names of torchvision's."""
    torch.manual_seed(6)
    path = folder / "resnet18.safetensors"
    notes = {"mean": "[0.5, 0.4, 0.3]", "std": "[0.2, 0.3, 0.2]"}
    save_file(build("resnet18", 1000, channels=3).state_dict(), path, metadata=notes)
    return path


def classifier(folder: Path) -> Path:
    torch.manual_seed(7)
    header = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("NORMAL", "PNEUMONIA"))
    save(folder / "classifier.safetensors", build("test_resnet", 2, size=32), header)
    return folder / "classifier.safetensors"


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def config(folder: Path, data: str, **changes) -> DistillConfig:
    return DistillConfig(**{**SMALL, "data": data, "runs_dir": str(folder / "runs"), **changes})


def test_without_labels_a_backbone_comes_out_that_finetune_takes(tmp_path, toy_folder) -> None:
    given = config(tmp_path, toy_folder, teacher=[f"{backbone(tmp_path)}"], cached_views=2, epochs=8)
    path = stages.distill(given)
    header, log = describe(path), lines(path.parent)
    assert (path.name, header.kind, header.labels, header.task) == ("backbone.safetensors", "backbone", (), None)
    assert header.cohort is not None
    assert header.cohort["labels"] == []
    assert log[-1]["pooled_cosine"] < 0.5 * log[0]["pooled_cosine"]
    assert header.metrics["val_loss"] == min(line["val_loss"] for line in log)
    assert f"--start {path} --mode linear" in stages.next_step(given, path)
    shared = {"data": toy_folder, "runs_dir": str(tmp_path / "runs"), "architecture": "test_resnet", "size": 32}
    shared |= {"precision": "fp32", "batch_size": 16}
    model = stages.finetune(FinetuneConfig(**shared, start=str(path), mode="linear", name="head"))
    own, its = load(model)[0].network.state_dict(), load(path)[0].network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in its.items())
    assert describe(model).kind == "model"


def test_no_classifier_is_suggested_on_images_without_labels(tmp_path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(open_cohort("phantom:30", pixel_size=48, show=False).pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    said = stages.next_step(config(tmp_path, str(folder)), tmp_path / "backbone.safetensors")
    assert "next:" not in said
    assert "finetune --data LABELLED" in said
    given = classifier(tmp_path)
    with pytest.raises(BadInput, match=f"features from images alone: --teacher '{given}#features'"):
        stages.distill(config(tmp_path, str(folder), teacher=[str(given)]))


def test_labels_are_not_looked_at_and_the_cache_asks_no_teacher(tmp_path, toy_cohort, monkeypatch) -> None:
    asked, genuine = [], Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, pixels: (asked.append(len(pixels)), genuine(self, pixels))[1])
    names = ("label:NORMAL", "label:PNEUMONIA")
    other = toy_cohort.table.with_columns((1 - pl.col(name)).alias(name) for name in names)
    digests = []
    for name, cohort in (("a", toy_cohort), ("b", replace(toy_cohort, table=other))):
        taught = load_encoder(str(backbone(tmp_path)), ["pooled"], mean=0.5, std=0.2)
        losses = build_losses({"pooled_cosine": 1.0, "sp.feature": "pooled"})
        guide = Distillation((taught,), losses, 0.0, cached_views=2)
        given = DistillConfig(**SMALL, cached_views=2)
        engine, images = start_engine("fp32"), without_labels(cohort)
        path = train(given, "test_resnet", tmp_path / name, images, engine, distillation=guide)
        digests.append(sha256(path))
        if name == "a":
            assert sum(asked) == 2 * len(cohort.rows("train")) + len(cohort.rows("val"))
            asked.clear()
    assert not asked
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_encoders_and_classifiers_together_with_labels(tmp_path, toy_folder) -> None:
    teachers = [str(classifier(tmp_path)), f"resnet18={foreign(tmp_path)}", str(backbone(tmp_path, "test_vit", 32))]
    losses = {"kd": 0.5, "pooled_cosine": 1.0, "rkd": 0.1, "fitnets": 0.1}
    for views in (1, 0):
        given = config(
            tmp_path, toy_folder, teacher=teachers, loss=losses, task_weight=0.5, cached_views=views, teacher_size=64,
            epochs=1, name=f"views{views}",
        )  # fmt: skip
        path = stages.distill(given)
        header, (line,) = describe(path), lines(path.parent)
        assert (header.kind, [one["role"] for one in header.parents]) == (
            "model",
            ["teacher", "teacher-2", "teacher-3"],
        )
        assert {"task", *losses} <= line.keys()
        assert {"val_auroc", "agreement"} <= line.keys()


def test_features_from_the_cache_are_those_of_the_live_encoders(tmp_path, toy_cohort) -> None:
    rows, spec, engine = toy_cohort.rows("train"), ViewSpec(32), start_engine("fp32")
    stages_ = ["pooled", "level4"]
    taught = tuple(
        load_encoder(word, stages_, mean=0.5, std=0.2, size=size, grid=2)
        for word, size in ((f"resnet18={foreign(tmp_path)}", 64), (str(backbone(tmp_path)), None))
    )
    guide = Distillation(taught, build_losses({"pooled_cosine": 1.0, "fitnets": 1.0}), 0.0, cached_views=1)
    kept, live = (
        prepare(replace(guide, use_cache=how), without_labels(toy_cohort), rows, spec, engine) for how in (True, False)
    )
    from cxr_data.augment import render
    from cxr_distill.cached_outputs import cached_view

    drawn = {name: x[:8] for name, x in cached_view(spec, len(rows), 0).items()}
    pixels = toy_cohort.pixels[rows[:8]]
    shown = {s: torch.from_numpy(render(pixels, drawn, replace(spec, size=s))[0]).unsqueeze(1) for s in (32, 48, 64)}
    reader = kept.cached_reader(0)
    assert reader is not None
    nothing = torch.zeros(8, 0)
    seen = (
        kept.outputs(Batch(shown[32], nothing, {}, reader(np.arange(8)))),
        live.outputs(Batch(shown[32], nothing, shown, {})),
    )
    for own, its in zip(*(one.encoders for one in seen), strict=True):
        assert own.features.keys() == set(stages_)
        assert own.features["level4"].shape[2:] == (2, 2)
        for name in stages_:
            torch.testing.assert_close(own.features[name], its.features[name], atol=0.05, rtol=0.05)


def test_standardised_features_have_mean_0_and_variance_1() -> None:
    x = 3 + 2 * torch.randn(50, 4, 3, 3)
    x[:, 2] = 7.0
    y = scale_of(x)(x).double()
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    np.testing.assert_allclose(y.std((0, 2, 3), unbiased=False), [1, 1, 0, 1], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": {"kd": 1.0}}, "kd, which reads the answers"),
        ({"loss": {"simkd": 1.0}}, "simkd, which reads the classifier"),
        ({"loss": {"reviewkd": 1.0}}, "reviewkd, which reads level1"),
        ({"label_fraction": 0.1}, "labels are not looked at"),
        ({"control": True}, "labels are not looked at"),
        ({"teacher_size": 33}, "test_vit takes"),
        ({"teacher": ["nowhere.pth"]}, "nowhere.pth"),
        ({"teacher": ["resnet19=FOREIGN"]}, "did you mean resnet1"),
        ({"teacher": ["resnet34=FOREIGN"]}, "resnet34"),
        ({"teacher": ["timm:no_such_network"]}, "no_such_network"),
        ({"teacher": ["EMPTY"]}, "a folder with model.safetensors"),
    ],
)
def test_bad_input(tmp_path, toy_folder, changes, says) -> None:
    (tmp_path / "empty").mkdir()
    places = {"FOREIGN": str(foreign(tmp_path)), "EMPTY": str(tmp_path / "empty")}
    given = {"teacher": [str(backbone(tmp_path, "test_vit", 32))], **changes}
    for name, place in places.items():
        given["teacher"] = [word.replace(name, place) for word in given["teacher"]]
    with pytest.raises(BadInput) as error:
        stages.distill(config(tmp_path, toy_folder, **given))
    assert says in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_every_teacher_is_listened_to() -> None:
    check_encoders(build_losses({"kd": 1.0, "pkt": 1.0}), classifiers=1)
    with pytest.raises(BadInput, match="a loss on features"):
        check_encoders(build_losses({"kd": 1.0}), classifiers=1)
    with pytest.raises(BadInput, match="a loss on answers"):
        check_encoders(build_losses({"pkt": 1.0}), classifiers=1)
