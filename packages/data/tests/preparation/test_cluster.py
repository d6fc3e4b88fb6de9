import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from cxr_data import load, prepare
from cxr_data.cli import main
from cxr_data.cohorts.cohort import note_size

DIES_ONCE = """
import os
from pathlib import Path
from typing import Any
from cxr_data.cohorts.cohort import note_size
from cxr_data.preparation import cluster

def dask_setup(worker):
    decode, grave = cluster.prepare_shard, Path({grave!r})
    def dying(settings, out, number, count, **options):
        if number == 5 and not grave.exists():
            grave.touch()
            os._exit(1)
        return decode(settings, out, number, count, **options)
    cluster.prepare_shard = dying
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def cluster(tmp_path) -> Iterator[Any]:
    """Two worker processes, the first of which to decode part 5 dies of it."""
    preload = tmp_path / "preload.py"
    preload.write_text(DIES_ONCE.format(grave=str(tmp_path / "died")))
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "preload": str(preload)}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cluster_that_loses_a_worker_writes_the_cohort_of_one_process(two_classes, tmp_path, cluster, capsys):
    (two_classes / "COVID/patient16_0.png").write_bytes(b"")
    prepare(two_classes, tmp_path / "whole", pixel_size=32, max_bad=0.05, show=False)
    note_size(tmp_path / "whole", 28)
    out = tmp_path / "out" / "cohort"
    options = ["--size", "28", "--max_bad", "0.05", "--out", str(out)]
    command = ["prepare", str(two_classes), *options, "--dask", cluster.scheduler_address]
    assert main(command) == 0
    assert (tmp_path / "died").exists()
    assert "59 images of 32 x 32" in capsys.readouterr().out
    assert contents(out) == contents(tmp_path / "whole")
    assert [path.name for path in out.parent.iterdir()] == ["cohort"]
    before = (out / "pixels.npy").stat().st_mtime_ns
    assert main(command) == 0  # it is there: nothing is decoded
    assert (out / "pixels.npy").stat().st_mtime_ns == before
    assert len(load(out).table) == 59
    # What a worker refuses is told as it would be here.
    for image in ("COVID/patient1_0.png", "COVID/patient2_0.png", "COVID/patient3_0.png", "COVID/patient4_0.png"):
        (two_classes / image).write_bytes(b"")
    assert main([*command[:2], "--out", str(tmp_path / "strict"), *command[-2:]]) == 2
    assert "broken" in capsys.readouterr().err


def test_no_scheduler_and_what_does_not_go_together(two_classes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cxr_data.preparation.cluster.PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    out = ["--out", str(tmp_path / "out")]
    for given, message in [
        (["--dask", address], "a Dask scheduler that answers"),
        (["--dask", "nonsense://x"], "a Dask scheduler that answers"),
        (["--dask", address, "--shard", "1/2"], "expected --shard or --dask, found both"),
    ]:
        assert main(["prepare", str(two_classes), *out, *given]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
