import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def start(target: Path, processes: int) -> list[subprocess.Popen[str]]:
    """Run the script in so many processes, with gloo between them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        if processes > 1:
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {name: str(value) for name, value in (ranks | address).items()}
        command = [sys.executable, str(SCRIPT), str(target)]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return running


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What the script's main process saved, alone and as one of two."""
    targets = [tmp_path_factory.mktemp("processes") / f"{processes}.pt" for processes in (1, 2)]
    for process in [*start(targets[0], 1), *start(targets[1], 2)]:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
    return [torch.load(target, weights_only=True) for target in targets]


def test_two_processes_give_the_codes_of_one(one_and_two):
    one, two = one_and_two
    torch.testing.assert_close(two["codes"], one["codes"], atol=1e-5, rtol=0)
    torch.testing.assert_close(two["uneven"], one["codes"], atol=1e-5, rtol=0)


def test_two_processes_take_the_steps_of_one_with_the_joined_batch(one_and_two):
    one, two = one_and_two
    gradients = [name for name in one if name[0].isdigit()]
    assert len(gradients) > 20
    assert "1 prototypes.weight" not in gradients  # frozen
    assert "2 prototypes.weight" in gradients
    for name in one.keys() - {"uneven"}:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=0, msg=name)
