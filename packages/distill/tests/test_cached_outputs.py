import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import GrayNetwork, build
from cxr_common.training.accelerator import start as start_engine
from cxr_data.augment import ViewSpec, render
from cxr_data.errors import BadInput
from cxr_distill import cached_outputs as module
from cxr_distill.cached_outputs import cache_outputs, cached_view
from cxr_distill.config import DistillConfig
from cxr_distill.losses import build_losses
from cxr_distill.teacher import Teacher, load_teacher
from cxr_distill.teachers import Distillation
from cxr_distill.train import train

CONFIG = DistillConfig(size=32, batch_size=16, epochs=3, precision="fp32", lr=3e-3, student="test_resnet")
SPEC = ViewSpec(32, (0.6, 1.0))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path) -> Path:
    torch.manual_seed(5)
    given = Header("model", "test_resnet", Input(48, 0.4, 0.2), task="multiclass", labels=("PNEUMONIA", "NORMAL"))
    save(tmp_path / "teacher.safetensors", build("test_resnet", 2, size=48), given)
    return tmp_path / "teacher.safetensors"


def teacher(path: Path, *names: str) -> Teacher:
    return load_teacher(path, ("NORMAL", "PNEUMONIA"), "multiclass", names)


def inner(one: Teacher) -> Any:
    assert isinstance(one.network, GrayNetwork)
    return one.network.network


def recorded(one: Teacher, cohort, sets: int = 2, spec: ViewSpec = SPEC, **options):
    return cache_outputs(one, cohort, cohort.rows("train"), spec, sets, precision=torch.float32, **options)


def test_it_holds_what_the_teacher_says_to_these_views(path, toy_cohort, capsys) -> None:
    one = teacher(path, "pooled")
    actual = recorded(one, toy_cohort)
    rows = toy_cohort.rows("train")
    said = capsys.readouterr().out
    width = inner(one).num_features
    assert f"2 views x {len(rows)} images x 2 logits and {width} pooled" in said
    assert f"{2 * len(rows) * (2 + width) * 2 / 1000:.1f} kB in " in said
    positions = np.array([40, 3, 3])
    for k in (0, 1):
        drawn = {name: values[positions] for name, values in cached_view(SPEC, len(rows), k).items()}
        views = render(toy_cohort.pixels[rows[positions]], drawn, replace(SPEC, size=48))[0]
        live = one(torch.from_numpy(views).unsqueeze(1))
        kept = actual.read(k, positions)
        assert {v.dtype for v in kept.values()} == {torch.float16}
        torch.testing.assert_close(kept["logits"].float(), live.logits, atol=2e-3, rtol=1e-3)
        torch.testing.assert_close(kept["pooled"].float(), live.features["pooled"], atol=2e-3, rtol=1e-3)
    assert actual.validation().shape == (len(toy_cohort.rows("val")), 2)
    about = json.loads((actual.folder / "about.json").read_text())
    assert about["teacher"] == one.digest
    assert about["view_seed"] == module.SEED


def test_a_student_learns_from_it_as_from_the_live_teacher_and_asks_no_more(path, tmp_path, toy_cohort) -> None:
    asked = []

    def taught(folder: str, seed: int, **changes) -> list[dict[str, float]]:
        one = teacher(path, "pooled")

        def note(_module, _inputs, output: torch.Tensor) -> None:
            if output.device.type != "meta":  # which only tells shapes
                asked.append(folder)

        inner(one).get_submodule("conv1.0").register_forward_hook(note)
        losses = {"kd": 0.9, "pkt": 1.0}
        guide = Distillation((one,), build_losses(losses), 0.1, cached_views=2, **changes)
        config = replace(CONFIG, seed=seed, cached_views=2)
        train(config, "test_resnet", tmp_path / folder, toy_cohort, start_engine("fp32"), distillation=guide)
        return [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]

    live = taught("live", 0, use_cache=False)
    assert asked.count("live") > 3 * 3
    first = taught("first", 0)
    rows = len(toy_cohort.rows("train"))
    assert asked.count("first") == 2 * -(-rows // 64) + 1  # two view sets and the validation images
    for own, its in zip(first, live, strict=True):
        ranks = {"val_auroc": own.pop("val_auroc")}  # of 20 images: three pairs that change places are .03
        assert own == pytest.approx({name: its[name] for name in own}, rel=0.02, abs=5e-3)
        assert ranks["val_auroc"] == pytest.approx(its["val_auroc"], abs=0.05)
    before = len(asked)
    taught("another seed", 1)
    assert len(asked) == before


def test_the_key_is_made_of_what_the_answers_depend_on(path, tmp_path, toy_cohort) -> None:
    one = teacher(path)
    actual = recorded(one, toy_cohort, 1)
    assert recorded(one, toy_cohort, 1, replace(SPEC, size=64)).folder == actual.folder  # another student's size
    assert recorded(one, toy_cohort, 1, replace(SPEC, rotation=3.0)).folder != actual.folder
    assert recorded(replace(one, digest="other"), toy_cohort, 1).folder != actual.folder
    assert recorded(one, replace(toy_cohort, fingerprint="other"), 1).folder != actual.folder


def test_what_is_there_is_not_asked_again(path, toy_cohort, monkeypatch) -> None:
    one = teacher(path)
    written = []
    genuine = os.replace

    def replace_but(missing: str) -> Callable[..., None]:
        def replaced(part: Path, target: Path) -> None:
            if Path(target).name == missing:
                raise KeyboardInterrupt
            written.extend([name] if (name := Path(target).name).startswith(("logits-", "pooled-")) else [])
            genuine(part, target)

        return replaced

    monkeypatch.setattr("os.replace", replace_but("logits-0002.npy"))
    monkeypatch.setattr("os.getpid", lambda: 0)
    with pytest.raises(KeyboardInterrupt):
        recorded(one, toy_cohort, 4)
    assert written == ["logits-0000.npy", "logits-0001.npy"]
    monkeypatch.setattr("os.replace", replace_but("nothing"))
    actual = recorded(one, toy_cohort, 4)
    assert written[2:] == ["logits-0002.npy", "logits-0003.npy"]
    assert not list(actual.folder.glob(".*.part"))
    # Pooled features are a matter of their own: asked for later, they come beside.
    more = recorded(teacher(path, "pooled"), toy_cohort, 1)
    assert more.folder == actual.folder
    assert written[4:] == ["logits-0000.npy", "pooled-0000.npy"]


def test_an_interrupted_view_goes_on_where_it_stopped(path, toy_cohort, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 8)
    monkeypatch.setattr(module, "_KEEP_EVERY", 0.0)
    one, batches = teacher(path), -(-len(toy_cohort.rows("train")) // 8)
    whole = recorded(replace(one, digest="other"), toy_cohort, 1).read(0, np.arange(50))["logits"]
    genuine, seen = Teacher.__call__, []

    def fails_at_the_fourth(self: Teacher, pixels: torch.Tensor):
        seen.append(len(pixels))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return genuine(self, pixels)

    monkeypatch.setattr(Teacher, "__call__", fails_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        recorded(one, toy_cohort, 1)
    actual = recorded(one, toy_cohort, 1)
    assert len(seen) == batches + 1
    assert torch.equal(actual.read(0, np.arange(50))["logits"], whole)


def test_other_rows_are_other_outputs_and_a_mixed_up_folder_is_refused(path, toy_cohort) -> None:
    one, rows = teacher(path), toy_cohort.rows("train")
    actual = recorded(one, toy_cohort, 1)
    other = cache_outputs(one, toy_cohort, rows[1:], SPEC, 1, precision=torch.float32)
    assert other.folder != actual.folder
    (actual.folder / "about.json").write_text((other.folder / "about.json").read_text())
    with pytest.raises(BadInput, match="another rows"):
        recorded(one, toy_cohort, 1)


def test_two_at_once_divide_the_work(path, toy_cohort, monkeypatch) -> None:
    genuine, written = os.replace, []

    def replaced(part: Path, target: Path) -> None:
        written.extend([name] if (name := Path(target).name).startswith(("logits-", "pooled-")) else [])
        genuine(part, target)

    monkeypatch.setattr("os.replace", replaced)
    failures = []

    def work() -> None:
        try:
            recorded(teacher(path), toy_cohort, 4, show=False)
        except BaseException as error:
            failures.append(error)

    both = [threading.Thread(target=work) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not failures
    assert sorted(written) == [f"logits-000{k}.npy" for k in range(4)]


@pytest.mark.nightly
def test_two_commands_started_at_once(path, tmp_path, toy_folder) -> None:
    flags = f"--size 32 --batch_size 16 --epochs 1 --precision fp32 --data {toy_folder} --teacher {path}".split()
    flags += ["--student", "test_resnet", "--cached_views", "3", "--runs_dir", str(tmp_path / "runs")]
    script = str(Path(sys.executable).with_name("distill"))
    started = [
        subprocess.Popen([script, *flags, "--seed", str(seed), "--name", f"s{seed}"], stdout=subprocess.DEVNULL)
        for seed in (0, 1)
    ]
    assert [process.wait() for process in started] == [0, 0]
    (folder,) = (tmp_path / "cache" / "teachers").iterdir()
    assert sorted(file.name for file in folder.glob("*.npy")) == [
        *(f"logits-000{k}.npy" for k in range(3)),
        "validation.npy",
    ]


def test_a_damaged_recording_and_a_full_disk_are_said(path, toy_cohort, monkeypatch) -> None:
    one = teacher(path)
    actual = recorded(one, toy_cohort, 1)
    module._opened.cache_clear()
    (actual.folder / "logits-0000.npy").write_bytes(b"no array")
    with pytest.raises(BadInput, match="damaged"):
        recorded(one, toy_cohort, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(BadInput, match="--cached_views"):
        recorded(one, toy_cohort, 3)


def test_answers_that_float16_cannot_hold_are_refused(path, toy_cohort) -> None:
    one = teacher(path)
    with torch.no_grad():
        inner(one).get_submodule("fc").get_parameter("bias").add_(1e5)
    with pytest.raises(BadInput, match="--cached_views 0"):
        recorded(one, toy_cohort, 1)
