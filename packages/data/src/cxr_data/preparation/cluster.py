"""Preparation on a Dask cluster: its workers decode the parts of a release, which are put together as one cohort."""

import shutil
from pathlib import Path
from typing import Any

from cxr_data.cohorts.cohort import Cohort, load, note_size
from cxr_data.command_line.progress import Progress
from cxr_data.errors import BadInput, require_modules
from cxr_data.preparation.prepare import Plan, finished, listed, outside, plan
from cxr_data.preparation.shards import merge, prepare_shard

PARTS = 64
"""Into how many parts a release is divided, whatever the cluster, so that a second run finds those of the first."""
PATIENCE = 30
"""Seconds to wait for the scheduler."""


def prepare_on_dask(
    source: str | Path, out: str | Path, scheduler: str, *, show: bool = True, **options: Any
) -> Cohort:
    """Prepare a data set on many machines: the same bytes as :func:`cxr_data.prepare` on one.

    The parts of a worker that dies are decoded by another; those of a killed call are found by the next one. Data set
    and output must lie on a disk that all machines have at the same place.

    Args:
        source: Folder of the data set.
        out: Folder to write; new or empty, or holding this very cohort.
        scheduler: Address of a running cluster's scheduler, such as "tcp://HOST:8786".
        show: Whether to show progress.
        **options: Those of :func:`cxr_data.preparation.prepare.plan`.

    Raises:
        BadInput: Dask is not installed, no scheduler answers, a part killed worker after worker, or what ``prepare``
            raises.
    """
    require_modules(["distributed"], "cxr-data[dask]", "--dask")
    from distributed import Client, KilledWorker, as_completed

    settings = plan(source, **options)
    target = outside(settings, out)
    if finished(target, settings.identity):
        note_size(target, settings.size)
        return load(target)
    images = len(listed(settings)[0].table)
    parts = min(PARTS, images)
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        do = "start one with `dask scheduler`, and workers with `dask worker --nthreads 1 ADDRESS`"
        raise BadInput("a Dask scheduler that answers", f"{error}", where=f"--dask {scheduler}", do=do) from error
    with client, Progress("decode", 1, parts, show=show) as bar:
        tasks = client.map(_decode, range(1, parts + 1), settings=settings, out=target, count=parts, pure=False)
        folders: list[Path] = []
        try:
            for task in as_completed(tasks):
                folders.append(task.result())
                bar.step(images // parts)
        except KilledWorker as error:
            do = "look at the workers' logs: they may need more memory"
            raise BadInput("workers that decode a part", "several that died of the same one", do=do) from error
    cohort = merge(folders, target)
    for folder in folders:
        shutil.rmtree(folder)
    return cohort


def _decode(number: int, *, settings: Plan, out: Path, count: int) -> Path:
    return prepare_shard(settings, out, number, count, show=False)
