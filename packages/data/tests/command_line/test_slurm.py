import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_data.command_line.slurm import script

SRUN = r"""#!/bin/bash
# srun of two tasks, which get the signals that this process gets
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!)
done
trap 'kill -TERM "${tasks[@]}"' TERM
echo "$$" > srun.pid
code=0
for task in "${tasks[@]}"; do
  wait "$task"; ended=$?
  if kill -0 "$task" 2>/dev/null; then wait "$task"; ended=$?; fi  # the signal interrupted the wait
  [ "$ended" -gt "$code" ] && code=$ended
done
exit "$code"
"""
SCONTROL = r"""#!/bin/bash
[ "$1" = show ] && { echo first; echo second; exit; }
echo "$@" >> scontrol.txt
"""
TRAIN = r"""#!/bin/bash
# a training that saves when it is asked to stop, and resumes where there is a state
echo "$@" > "arguments-${RANK:-alone}"
env | grep -E '^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|MASTER_)' | sort > "environment-${RANK:-alone}"
[ -e "state-${RANK:-alone}" ] && exit "${CODE:-0}"
trap 'touch "state-${RANK:-alone}"; exit 143' TERM
touch "started-${RANK:-alone}"
while :; do sleep 0.02; done
"""


@pytest.fixture
def cluster(tmp_path) -> dict[str, str]:
    """Environment of a job, with stand-ins for SLURM's commands that do what its manual says."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("train", TRAIN)):
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "SLURM_JOB_ID": "20007", "SLURM_NTASKS": "2", "SLURM_TASKS_PER_NODE": "2(x1)"}


def start(tmp_path: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    (tmp_path / "job.sh").write_text(script(["train", "--data", "my cohort", "--loss.kd=1"]))
    return subprocess.Popen(
        ["bash", "job.sh"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(*files: Path) -> None:
    deadline = time.monotonic() + 20
    while not all(file.exists() and (file.suffix != ".pid" or file.read_text()) for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.01)


def test_a_job_whose_time_is_over_saves_and_is_queued_again_and_then_ends(tmp_path, cluster) -> None:
    job = start(tmp_path, cluster)
    wait_for(tmp_path / "srun.pid", tmp_path / "started-0", tmp_path / "started-1")
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
    said, _ = job.communicate(timeout=20)
    assert job.returncode == 143, said
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 20007\n"
    assert (tmp_path / "arguments-1").read_text() == "--data my cohort --loss.kd=1\n"
    assert (tmp_path / "environment-1").read_text().split() == [
        *("LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2", "MASTER_ADDR=first", "MASTER_PORT=20007", "RANK=1", "WORLD_SIZE=2")
    ]
    again = start(tmp_path, cluster)
    said, _ = again.communicate(timeout=20)
    assert again.returncode == 0, said
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 20007\n"


def test_a_job_that_failed_is_not_queued_again(tmp_path, cluster) -> None:
    (tmp_path / "state-alone").touch()
    job = start(tmp_path, {**cluster, "SLURM_NTASKS": "1", "CODE": "2"})
    said, _ = job.communicate(timeout=20)
    assert job.returncode == 2, said
    assert not (tmp_path / "scontrol.txt").exists()
    assert "RANK" not in (tmp_path / "environment-alone").read_text()


def test_a_command_prints_its_script_and_refuses_bad_options_first(tmp_path) -> None:
    command = [str(Path(sys.executable).with_name("cxr-data")), "prepare", "phantom:20", "--size", "32", "--slurm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"exec {Path(sys.executable).with_name('cxr-data')} prepare phantom:20 --size 32\n" in done.stdout
    assert list(tmp_path.iterdir()) == []
    wrong = subprocess.run([*command, "--sizze", "3"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stdout == ""
