import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxr_data.errors import BadInput
from cxr_recipes import runner
from cxr_recipes.config import ReproduceConfig
from cxr_recipes.recipe import names, read


def reproduce(*arguments: object) -> subprocess.CompletedProcess[str]:
    script = Path(sys.executable).with_name("reproduce")
    return subprocess.run([str(script), *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def in_this_process(typed, monkeypatch):
    """Runs ``reproduce`` and the commands it starts here: none of them has to import torch again."""

    def start(command: list[str], *_: object) -> int:
        name = Path(command[0]).name
        untimed = ["--speed", "false"] if name == "evaluate" else []
        done = typed(name, *command[1:], *untimed)
        print(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode

    @contextlib.contextmanager
    def one_after_another(_: int) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(map=map)

    monkeypatch.setattr(runner, "_run", start)
    monkeypatch.setattr(runner, "ThreadPoolExecutor", one_after_another)  # signals are heard in the first thread alone
    return functools.partial(typed, "reproduce")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart_runs_the_whole_road_and_does_nothing_twice(tmp_path, in_this_process) -> None:
    done = in_this_process("quickstart", "--scale", "tiny", "--runs_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "quickstart"
    assert done.stdout.rstrip().endswith(f"open  {run / 'report' / 'index.html'}")
    assert done.stdout.count("$ uv run ") == 4
    page = (run / "results.md").read_text()
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    assert list(metrics["models"]) == ["teacher", "resnet18", "resnet18-control"]
    value = metrics["models"]["resnet18"]["overall"]["auroc"]["value"]
    assert f"{value:.4f}" in page
    for line in done.stdout.splitlines():
        if "$ " in line:
            assert line.split("$ ")[1] in page

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert len(before) == 5
    again = in_this_process("quickstart", "--scale", "tiny", "--runs_dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already finished") == 4
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_terminated_it_leaves_no_command_behind(tmp_path) -> None:
    script = Path(sys.executable).with_name("reproduce")
    arguments = [str(script), "quickstart", "--scale", "tiny", "--runs_dir", str(tmp_path)]
    # A process group of their own: signal 0 then tells whether any of them still runs.
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert any("ssl-pretrain" in line for line in process.stdout)
        time.sleep(1)
        process.terminate()
        assert process.wait(60) == 143
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_quickstart_is_a_process(tmp_path) -> None:
    done = reproduce("quickstart", "--scale", "tiny", "--runs_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"open  {tmp_path / 'quickstart' / 'report' / 'index.html'}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(set(names()) - {"quickstart", "kermany"}))
def test_every_recipe_runs_in_small(name, tmp_path, shared_data, in_this_process) -> None:
    data = ["--data", shared_data / "covid_cxr"] if read(name).scales["tiny"]["data"].startswith("..") else []
    done = in_this_process(name, "--scale", "tiny", "--runs_dir", tmp_path, *data)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / name / "results.md").read_text()
    assert all(f"## Results on {title}" in page for title in read(name).reports.values())


def test_a_stage_that_refuses_its_input_ends_the_recipe_with_its_code(tmp_path, in_this_process) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("title: t\nscales: {a: {}}\nstages: [finetune --architecture resnet81 --size 32, evaluate]")
    done = in_this_process(recipe, "--data", "phantom:40", "--runs_dir", tmp_path / "runs")
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    assert "ended with code 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("code", "runs"), [(2, 2), (130, 1), (143, 1), (-9, 1)])
def test_a_stage_goes_on_past_what_fails_but_not_past_what_is_stopped(tmp_path, monkeypatch, code, runs) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(runner, "_run", lambda command, *_: begun.append(command) or code)
    recipe = read("quickstart")
    stage = [["finetune", "--seed", str(seed)] for seed in (0, 1)]
    with pytest.raises(SystemExit) as ended:
        runner.run_recipe(recipe, "tiny", tmp_path, [stage, [["evaluate"]]], 1, "")
    assert (ended.value.code, len(begun)) == (max(code, 1), runs)


def test_dry_run_prints_what_a_person_would_type(capsys) -> None:
    runner.reproduce(ReproduceConfig(["quickstart"], dry_run=True))
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in printed] == ["ssl-pretrain", "finetune", "distill", "evaluate"]


def test_no_recipe_and_too_few_jobs() -> None:
    with pytest.raises(BadInput, match="quickstart"):
        runner.reproduce(ReproduceConfig())
    with pytest.raises(BadInput, match="--jobs"):
        ReproduceConfig(jobs=0)
    with pytest.raises(BadInput, match="--run"):
        ReproduceConfig(["a", "b"], run="x")


def test_no_recipe_runs_before_all_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(runner, "run_recipe", lambda *_: pytest.fail("ran"))
    (tmp_path / "broken.yaml").write_text("title: t")
    with pytest.raises(BadInput, match=r"broken\.yaml"):
        runner.reproduce(ReproduceConfig(["quickstart", str(tmp_path / "broken.yaml")]))


def test_side_by_side_commands_share_the_cores(monkeypatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert runner._environment(3)["OMP_NUM_THREADS"] == "2"
    assert runner._environment(16)["OMP_NUM_THREADS"] == "1"


def test_a_forked_command_prints_and_ends_as_one_of_its_own() -> None:
    """In a process that has started no threads, as `reproduce` has not."""
    code = (
        "from cxr_recipes import runner\n"
        "runner.HEAVY = ('json',)\n"
        "print([runner._forked([str(runner.script('cxr-data')), word]) for word in ('--help', 'prepair')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: cxr-data" in done.stdout
    assert done.stdout.rstrip().endswith("[0, 2]")
    assert "did you mean prepare" in done.stderr


def test_commands_are_forked_one_at_a_time_and_not_beside_a_gpu(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(runner, "GPUS", (str(tmp_path),))
    assert not runner.may_fork()
    monkeypatch.setattr(runner, "GPUS", (str(tmp_path / "none"),))
    assert runner.may_fork() == (sys.platform == "linux")
    monkeypatch.setattr(runner, "_forked", lambda arguments: 7)
    words = [sys.executable, "-c", "raise SystemExit(3)"]
    assert runner._run(words, dict(os.environ), set()) == (7 if sys.platform == "linux" else 3)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(runner._run, words, dict(os.environ), set()).result() == 3
