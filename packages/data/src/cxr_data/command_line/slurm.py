"""Batch scripts for SLURM, printed by ``--slurm`` of every command."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPT = r"""#!/bin/bash
# sbatch FILE; options of sbatch win over these: sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 FILE
#SBATCH --job-name={name}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.txt
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM to every task three minutes before the end: it saves between two steps and ends with code 143.
#SBATCH --signal=TERM@180

nodes=${{SLURM_JOB_NODELIST:-localhost}}
MASTER_ADDR=$(scontrol show hostnames "$nodes" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
run() {{
  if [ "${{SLURM_NTASKS:-1}}" -gt 1 ]; then  # each task is a process of one training
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=${{SLURM_TASKS_PER_NODE%%(*}}
  fi
  exec {command}
}}
export -f run
srun bash -c run
code=$?
if [ "$code" -eq 143 ]; then
  echo "saved; the job is queued again and resumes"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def script(words: Sequence[str]) -> str:
    """A script for sbatch that runs a command, and queues it again where it was stopped and has saved.

    Args:
        words: The command and its arguments, as a shell would split them.
    """
    beside = Path(sys.executable).with_name(words[0])
    command = shlex.join([str(beside) if beside.exists() else words[0], *words[1:]])
    return SCRIPT.format(name=words[0], command=command)
