"""A cohort in chunks on a real S3 server, on this machine."""

import uuid

import numpy as np
import pytest

from cxr_data import open_cohort
from cxr_data.cohorts import remote
from cxr_data.cohorts.chunks import upload
from cxr_data.errors import BadInput

s3fs = pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """URL of an empty bucket; its server stops when it is told to."""
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of whoever runs this
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a key",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"radiographs-{uuid.uuid4()}"  # all servers of a process share their buckets
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}", running
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def cohort():
    return open_cohort("phantom:60", pixel_size=32, show=False)


def test_it_reads_like_the_cohort_on_disk(bucket, cohort) -> None:
    url = f"{bucket[0]}/phantom"
    assert upload(cohort, url, chunk_bytes=10 * 32 * 32) >= 6
    opened = open_cohort(url)
    assert opened.table.equals(cohort.table)
    assert np.array_equal(opened.pixels[:], cohort.pixels)


def test_what_is_missing_or_refused_is_said(bucket, cohort, monkeypatch) -> None:
    url = f"{bucket[0]}/phantom"
    for missing in (f"{bucket[0]}/nothing", "s3://no-such-bucket/phantom"):
        with pytest.raises(BadInput, match="no such file"):
            open_cohort(missing)
    with pytest.raises(BadInput, match=r"found (?s:.*)where: s3://no-such-bucket/phantom"):
        upload(cohort, "s3://no-such-bucket/phantom")
    upload(cohort, url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(BadInput, match=r"credentials that open this address(?s:.*)AWS_ACCESS_KEY_ID"):
        open_cohort(url)


def test_a_server_that_stops_is_said_and_nothing_is_half_written(bucket, cohort, tmp_path) -> None:
    url = f"{bucket[0]}/phantom"
    upload(cohort, url, chunk_bytes=10 * 32 * 32)
    opened = open_cohort(url)
    opened.pixels[opened.rows("val")]
    kept = sorted((tmp_path / "cache" / "cohorts" / "downloaded-chunks").iterdir())
    bucket[1].stop()
    with pytest.raises(BadInput, match=r"an answer from the store(?s:.*)the same command resumes"):
        opened.pixels[opened.rows("train")]
    assert sorted((tmp_path / "cache" / "cohorts" / "downloaded-chunks").iterdir()) == kept
    opened.pixels[opened.rows("val")]
