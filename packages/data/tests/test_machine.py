import subprocess
import sys

import numpy as np

from cxr_data.machine import cpu_name, is_main, memory, peak_memory


def test_a_cpu_has_a_name() -> None:
    assert cpu_name().strip()


def test_the_peak_is_that_of_this_process_alone() -> None:
    ballast = np.ones(300_000_000, np.uint8)
    assert peak_memory() > ballast.nbytes
    code = "from cxr_data.machine import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(child.stdout) < ballast.nbytes


def test_the_memory_of_this_machine_is_more_than_this_process_took():
    assert memory() > peak_memory()


def test_the_first_of_several_processes_is_the_main_one(monkeypatch):
    for rank, main in ((None, True), ("0", True), ("1", False)):
        monkeypatch.delenv("RANK", raising=False)
        if rank is not None:
            monkeypatch.setenv("RANK", rank)
        assert is_main() == main
