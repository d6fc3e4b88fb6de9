import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def alone_and_together(target: Path) -> list[dict[str, torch.Tensor]]:
    """What the script finds with one process holding everything, and with two that share (gloo)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": 1}
    running = []
    for rank in range(2):
        own = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        command = [sys.executable, str(SCRIPT), str(target)]
        running.append(
            subprocess.Popen(
                command,
                env={**os.environ, **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for process in running:
        said, _ = process.communicate(timeout=200)
        assert process.returncode == 0, said
    return torch.load(target, weights_only=True)


def test_two_processes_do_what_one_does_with_the_joined_batch(tmp_path):
    alone, together = alone_and_together(tmp_path / "results.pt")
    gradients = [name for name in alone if name[0].isdigit()]
    assert len(gradients) > 20
    assert "1 prototypes.weight" not in gradients  # frozen
    assert "2 prototypes.weight" in gradients
    assert {"codes", "uneven", "numbers", "prototypes.weight"} < alone.keys()
    assert alone.keys() == together.keys()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], atol=1e-5, rtol=0, msg=name)
