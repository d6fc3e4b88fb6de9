import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cxr_data.errors import BadInput
from cxr_recipes.gpu_check import check, commands, correctness, page
from cxr_recipes.gpu_check.config import GpuCheckConfig

PASSED = {"differences": {"update": 0.0}, "tolerances": {"update": 0.1}, "passed": True}


def gpu_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("reproduce")
    words = [str(script), "gpu-check", "--scale", "tiny", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_everything_passes_on_a_cpu_and_is_not_done_twice(tmp_path) -> None:
    options = ("--runs_dir", tmp_path, "--recipe", "")
    done = gpu_check("--minutes", 14, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "gpu-check" / "gpu.json").read_text())
    compared = {name: one for name, one in document["correctness"].items() if "differences" in one}
    assert len(compared) == 10
    assert all(value == 0 for one in compared.values() for value in one["differences"].values())  # the CPU twice
    rates = {name: one.get("training_images_per_second") for name, one in document["speed"].items()}
    assert len(rates) == 8
    assert all(rate is None or rate > 0 for rate in rates.values())
    again = gpu_check("--minutes", 0.001, *options)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "gpu-check" / "gpu.json").read_text()) == document


def test_what_has_a_good_result_is_not_done_again_and_what_has_no_time_is_left_out() -> None:
    done, written = [], []

    def task(name: str):
        def run() -> dict:
            done.append(name)
            if name == "fails":
                raise commands.Failed("ended with code 1")
            return PASSED

        return name, run

    known = {"known": PASSED, "cut": {"left_out": "no time left"}, "broke": {"error": "?"}}
    names = ("known", "cut", "broke", "fails", "after it")
    check._do(known, map(task, names), float("inf"), lambda: written.append(1))
    assert done == ["cut", "broke", "fails", "after it"]
    assert len(written) == 4
    assert page.failures({"correctness": known, "speed": {}, "recipe": {}}) == ["fails"]
    late: dict = {}
    check._do(late, [task("late")], 0.0, lambda: None)
    assert late == {"late": {"left_out": "no time left"}}
    assert "left out: no time left" in page.page(
        {"correctness": late, "speed": late, "recipe": {}, "scale": "tiny", "device": "d", "machine": "m", "pixels": ""}
    )


def test_differences_beyond_their_tolerance_or_undefined_ones_fail() -> None:
    assert correctness.judged({"update": 0.1}, {"update": 0.1})["passed"]
    assert not correctness.judged({"update": 0.11}, {"update": 0.1})["passed"]
    assert not correctness.judged({"update": float("nan")}, {"update": 0.1})["passed"]
    assert not correctness.judged({}, {"update": 0.1})["passed"]


def test_the_difference_of_two_updates_is_relative_to_the_update(tmp_path) -> None:
    start = {
        "a": np.array([1, 1, 1], np.float32),
        "a.running_mean": np.array([0], np.float32),
        "count": np.array([3], np.int64),
    }
    cpu = {
        "a": np.array([4, 5, 1], np.float32),
        "a.running_mean": np.array([9], np.float32),
        "count": np.array([4], np.int64),
        "new": np.array([7], np.float32),
    }
    gpu = {
        **cpu,
        "a": np.array([4, 5, 1.5], np.float32),
        "a.running_mean": np.array([5], np.float32),
        "new": np.array([0], np.float32),
    }
    files = [tmp_path / f"{name}.safetensors" for name in ("cpu", "gpu", "start")]
    for file, tensors in zip(files, (cpu, gpu, start), strict=True):
        save_file(tensors, file)
    assert correctness.update_difference(*files) == pytest.approx(0.5 / 5)
    assert correctness.largest_difference(*files[:2]) == 7
    assert correctness.largest_difference(files[0], files[2]) == float("inf")
    assert np.isnan(correctness.update_difference(files[2], files[2], files[2]))  # nothing was learned


def test_an_archive_is_unpacked_once_and_nothing_leaves_its_folder(tmp_path) -> None:
    for name in ("big", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(name)
    archive = tmp_path / "pixels.tar"
    with tarfile.open(archive, "w") as file:
        file.add(tmp_path / "big", "big")
        file.add(tmp_path / "small", "small")
    config = GpuCheckConfig(pixels=str(archive), large="big", small="small", scale="tiny")
    large, small = check._data(config, tmp_path / "out")
    assert (Path(large, "x.txt").read_text(), Path(small, "x.txt").read_text()) == ("big", "small")
    assert check._data(config, tmp_path / "out") == (large, small)
    with pytest.raises(BadInput, match="folder nih_1000_64 in the archive"):
        check._data(GpuCheckConfig(pixels=str(archive), large="big", scale="tiny"), tmp_path / "out")
    with pytest.raises(BadInput, match="nothing there"):
        check._data(GpuCheckConfig(pixels="none.tar"), tmp_path / "other")
    with tarfile.open(archive, "w") as file:
        file.add(tmp_path / "big", "../escaped")
    with pytest.raises(BadInput, match="archive of radiographs"):
        check._data(config, tmp_path / "out" / "deep")


def test_results_of_another_scale_are_not_continued(tmp_path) -> None:
    folder = tmp_path / "gpu-check"
    folder.mkdir()
    record = check._record(folder, GpuCheckConfig(scale="tiny"))
    (folder / "gpu.json").write_text(json.dumps(record))
    assert check._record(folder, GpuCheckConfig(scale="tiny")) == record
    with pytest.raises(BadInput, match="scale was 'tiny', now 'gpu'"):
        check._record(folder, GpuCheckConfig())


def test_a_command_is_stopped_when_its_time_is_over(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(commands, "script", lambda name: name)
    log = tmp_path / "log.txt"
    assert commands.finish(commands.start(["sleep", "60"], log), 0.1) is None
    assert commands.finish(commands.start(["true"], log), 60.0) == 0
    with pytest.raises(commands.Failed, match="false ended with code 1, not 0"):
        commands.run(["false"], log)


@pytest.mark.parametrize("options", [{"scale": "cpu"}, {"minutes": 0}, {"run": "../x"}, {"small": ""}])
def test_options_that_cannot_be_are_refused(options) -> None:
    with pytest.raises(BadInput):
        GpuCheckConfig(**options)
