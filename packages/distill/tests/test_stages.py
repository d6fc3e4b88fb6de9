import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cxr_common.checkpoint import Header, Input, describe, save
from cxr_common.models.zoo import build
from cxr_data.augment import whole
from cxr_data.cohorts.cohort import save as save_cohort
from cxr_distill import stages
from cxr_distill.config import DistillConfig

FAST = ["--size", "32", "--batch_size", "16", "--epochs", "1", "--precision", "fp32"]


@pytest.fixture
def backbone(tmp_path) -> Path:
    path = tmp_path / "runs" / "quickstart" / "ssl" / "backbone.safetensors"
    save(path, build("test_resnet", 0, size=32), Header("backbone", "test_resnet", Input(32, 0.5, 0.2)))
    return path


def test_the_runs_backbone_becomes_a_teacher_first_and_the_control_comes_beside(toy_folder, backbone, typed) -> None:
    runs = backbone.parents[2]
    done = typed("distill", *FAST, "--data", toy_folder, "--student", "test_resnet", "--control", "--runs_dir", runs)
    assert done.returncode == 0, done.stderr
    folder = runs / "quickstart"
    teacher, student, control = (
        describe(folder / name / "model.safetensors") for name in ("teacher", "test_resnet", "test_resnet-control")
    )
    assert teacher.parents[0]["role"] == "start"
    assert [p["role"] for p in student.parents] == ["teacher"]
    assert control.parents == ()
    gain = json.loads((folder / "test_resnet" / "gain.json").read_text())
    assert gain["val_auroc"] == pytest.approx(student.metrics["val_auroc"])
    assert gain["control_val_auroc"] == pytest.approx(control.metrics["val_auroc"])
    assert gain["gain"] == pytest.approx(gain["val_auroc"] - gain["control_val_auroc"])
    assert gain["low"] <= gain["gain"] <= gain["high"]
    assert f"gain {gain['gain']:+.4f} (95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}, paired" in done.stdout
    assert f"wrote {folder / 'test_resnet' / 'model.safetensors'}" in done.stdout
    assert "next:  uv run evaluate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--teacher", "missing.safetensors"], "nothing there"),
        (["--start", "missing.pth"], "missing.pth"),
        (["--student", "resnet81"], "did you mean"),
        (["--loss", "kdd=1"], "did you mean kd"),
        (["--loss", "multilabel_kd=1"], "use kd"),
        (["--loss", "dist=1"], "at least 3 labels for 'dist'"),
        (["--loss", "fitnets.feature=level9"], "did you mean level"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["--task_loss", "focall"], "focal"),
        (["--loss", "fitnets=1", "--cached_views", "2"], "which reads the maps of level4"),
        (["--loss", "kd=0", "--task_weight", "0"], "a loss with a weight above 0"),
    ],
)
def test_bad_input_ends_with_one_message_and_leaves_nothing(tmp_path, toy_folder, arguments, says, typed) -> None:
    data = [] if "--data" in arguments else ["--data", toy_folder]
    teacher = tmp_path / "t.safetensors"
    header = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("NORMAL", "PNEUMONIA"))
    save(teacher, build("test_resnet", 2, size=32), header)
    given = [] if "--teacher" in arguments else ["--teacher", teacher]
    runs = tmp_path / "runs"
    done = typed("distill", *FAST, *data, *given, "--runs_dir", runs, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert not list(runs.rglob("*.safetensors"))


def test_a_training_that_diverges_says_so(tmp_path, toy_folder, typed) -> None:
    place = ("--data", toy_folder, "--runs_dir", tmp_path)
    done = typed("finetune", *FAST, *place, "--architecture", "baseline_cnn", "--lr", "1e30")
    assert done.returncode == 2, done.stderr
    assert "expected a finite loss, found nan at epoch 1" in done.stderr
    assert "lower --lr" in done.stderr


def test_two_teachers_of_their_own_sizes_asked_once(tmp_path, toy_folder, typed) -> None:
    teachers = []
    for size, labels in ((32, ("NORMAL", "PNEUMONIA")), (48, ("PNEUMONIA", "NORMAL"))):
        teachers.append(tmp_path / f"{size}.safetensors")
        header = Header("model", "test_resnet", Input(size, 0.5, 0.2), task="multiclass", labels=labels)
        save(teachers[-1], build("test_resnet", 2, size=size), header)
    runs = tmp_path / "runs"
    done = typed(
        "distill", *FAST, "--data", toy_folder, "--student", "test_resnet", "--runs_dir", runs,
        "--teacher", *teachers, "--ensemble", "weighted", "--cached_views", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cached teacher outputs: 1 views x") == 2
    student = describe(runs / "quickstart" / "test_resnet" / "model.safetensors")
    assert [p["role"] for p in student.parents] == ["teacher", "teacher-2"]
    assert student.config["teacher"] == [path.name for path in teachers]
    usual = {"kd": 0.9, "kd.scale_by_t2": True, "kd.temperature": 4.0}  # what null stood for
    assert (student.config["loss"], student.config["task_weight"]) == (usual, 0.1)


def test_larger_teachers_see_the_same_images_stored_more_finely() -> None:
    config = DistillConfig(data="phantom:40", size=32)
    cohort = stages._open(config)
    finer = stages._finer(config, cohort, {32, 64})
    assert finer.keys() == {64}
    assert (cohort.pixel_size, finer[64].pixel_size) == (64, 96)
    assert finer[64].table["image"].equals(cohort.table["image"])
    # The same content: each image is most like itself, brought to the same size.
    small = whole(finer[64].pixels, 64).reshape(40, -1).astype(np.float32)
    likeness = np.corrcoef(small, cohort.pixels.reshape(40, -1))[:40, 40:]
    assert (likeness.argmax(axis=1) == np.arange(40)).all()


def test_other_classes_than_the_teacher_knows(tmp_path, toy_folder, typed) -> None:
    teacher = tmp_path / "t.safetensors"
    header = Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multiclass", labels=("NORMAL", "COVID"))
    save(teacher, build("test_resnet", 2, size=32), header)
    done = typed("distill", *FAST, "--data", toy_folder, "--teacher", teacher, "--runs_dir", tmp_path / "runs")
    assert done.returncode == 2
    assert "NORMAL, PNEUMONIA" in done.stderr
    assert "NORMAL, COVID" in done.stderr


def test_a_folder_of_another_config_is_kept(tmp_path, toy_folder, typed) -> None:
    fit = ["--data", toy_folder, "--architecture", "test_resnet", "--runs_dir", tmp_path / "runs"]
    assert typed("finetune", *FAST, *fit).returncode == 0
    model = tmp_path / "runs" / "quickstart" / "teacher" / "model.safetensors"
    before = model.read_bytes()
    done = typed("finetune", *FAST, *fit, "--seed", 1)
    assert done.returncode == 2
    assert "seed was 0, now 1" in done.stderr
    assert model.read_bytes() == before
    assert typed("finetune", *FAST, *fit, "--seed", 1, "--restart").returncode == 0
    assert (tmp_path / "runs" / "quickstart" / "teacher.aside-1" / "model.safetensors").read_bytes() == before


def test_a_student_learns_a_label_of_which_only_its_teacher_knows(tmp_path, multilabel_cohort, capsys) -> None:
    rare = multilabel_cohort.table["label:rare"].to_numpy().copy()
    rare[multilabel_cohort.rows("train")] = np.nan
    cohort = replace(multilabel_cohort, table=multilabel_cohort.table.with_columns(pl.Series("label:rare", rare)))
    save_cohort(cohort, tmp_path / "cohort")
    teacher = tmp_path / "t.safetensors"
    save(
        teacher,
        build("test_resnet", 2, size=32),
        Header("model", "test_resnet", Input(32, 0.5, 0.2), task="multilabel", labels=cohort.labels),
    )
    config = DistillConfig(
        data=str(tmp_path / "cohort"), runs_dir=str(tmp_path), teacher=[str(teacher)], student="test_resnet",
        size=32, batch_size=16, epochs=1, precision="fp32", control=True,
    )  # fmt: skip
    stages.distill(config)
    student, control = (
        describe(tmp_path / "quickstart" / name / "model.safetensors")
        for name in ("test_resnet", "test_resnet-control")
    )
    assert (student.labels, control.labels) == (("square", "rare"), ("square",))
    said = capsys.readouterr().out
    assert "test_resnet-control: note: training images do not differ in rare" in said
    assert "95 % interval" in said  # the gain is that in the labels of both

    def known(config: DistillConfig, run: Path) -> set[str]:
        return stages._taught_labels(config, run, config.teacher)

    assert known(config, tmp_path) == {"square", "rare"}
    for change in ({"use_unlabelled": False}, {"loss": {"pooled_cosine": 1.0}}, {"teacher": []}):
        assert known(replace(config, **change), tmp_path) == set()
    assert known(replace(config, loss={"pooled_cosine": 1.0, "kd": 1.0}), tmp_path) == {"square", "rare"}
