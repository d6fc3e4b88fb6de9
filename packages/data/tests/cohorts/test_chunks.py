"""A cohort in chunks is the cohort on disk: the same table, pixels and answers; and what can go wrong on the way."""

import json
import os
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_data import load, open_cohort, prepare
from cxr_data.cli import main
from cxr_data.cohorts import remote
from cxr_data.cohorts.chunk_cache import Window, chunk_cache, shuffle_identity, shuffle_window
from cxr_data.cohorts.chunks import load_chunks, upload
from cxr_data.cohorts.joined import join
from cxr_data.cohorts.pixel_rows import PixelRows
from cxr_data.cohorts.remote import is_url
from cxr_data.errors import BadInput
from cxr_data.preparation.folds import save_folds, with_fold
from cxr_data.sources import default_size

CHUNK = 32 * 32 * 5
"""Five images of 32 pixels."""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


@pytest.fixture
def cohort(two_classes, tmp_path):
    return prepare(two_classes, tmp_path / "prepared", pixel_size=32, show=False)


@pytest.fixture
def url(cohort, tmp_path):
    address = f"memory://{tmp_path}/cohort"
    upload(cohort, address, chunk_bytes=CHUNK)
    return address


def kept():
    return sorted(chunk_cache().folder.glob("*.npy"))


def stored(url):
    files = fsspec.filesystem("memory")
    return {Path(path).name: files.cat_file(path) for path in files.find(url)}


def put(url, name, content):
    fsspec.filesystem("memory").pipe_file(f"{url}/{name}", content)


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_it_reads_like_the_cohort_on_disk(cohort, tmp_path, scheme) -> None:
    address = f"{scheme}://{tmp_path}/remote/cohort"
    chunks = upload(cohort, address, chunk_bytes=CHUNK)
    about = fsspec.filesystem(scheme).cat_file(f"{address}/cohort.json")
    assert [file["images"] for file in json.loads(about)["chunks"]["files"]].count(5) >= chunks - 3
    opened = open_cohort(address)
    assert opened.table.equals(cohort.table)
    assert (opened.fingerprint, opened.labels, opened.notes) == (cohort.fingerprint, cohort.labels, cohort.notes)
    rows = np.random.default_rng(0).permutation(len(cohort))[:40]
    assert np.array_equal(opened.pixels[rows], cohort.pixels[rows])
    assert np.array_equal(opened.pixels[:], cohort.pixels)
    assert opened.mean_std() == cohort.mean_std()
    assert opened.source == "two classes"  # no path of the machine that uploaded
    assert default_size(address) == default_size(tmp_path / "prepared")
    if scheme == "file":  # its folder's name alone is enough
        assert np.array_equal(open_cohort(tmp_path / "remote" / "cohort").pixels[:], cohort.pixels)


def test_others_read_the_layout_as_it_is_documented(cohort, url) -> None:
    files = stored(url)
    table = pl.read_parquet(BytesIO(files["cohort.parquet"]))
    for split in ("train", "val", "test"):
        names = sorted(name for name in files if name.startswith(split))
        pixels = np.concatenate([np.load(BytesIO(files[name])) for name in names])
        assert np.array_equal(pixels, cohort.pixels[np.flatnonzero(table["split"] == split)])


def test_mean_and_deviation_need_no_pixels(url, monkeypatch) -> None:
    opened = load_chunks(url)
    opened.mean_std()
    assert not chunk_cache().folder.exists()


def test_sixteen_bits_stay_sixteen(two_classes, tmp_path) -> None:
    deep = prepare(two_classes, tmp_path / "deep", pixel_size=32, bits=16, show=False)
    assert main(["upload", str(tmp_path / "deep"), "--to", f"memory://{tmp_path}/deep"]) == 0
    assert np.load(BytesIO(stored(f"{tmp_path}/deep")["train-00000.npy"])).dtype == np.uint16
    opened, local = open_cohort(f"memory://{tmp_path}/deep"), open_cohort(tmp_path / "deep")
    assert np.array_equal(opened.pixels[:], local.pixels[:])
    assert opened.mean_std() == local.mean_std()
    assert len(deep) == len(opened)


def test_written_folds_travel_along(cohort, tmp_path) -> None:
    save_folds(cohort, tmp_path / "prepared", 3, seed=7)
    address = f"memory://{tmp_path}/folds"
    assert main(["upload", str(tmp_path / "prepared"), "--to", address]) == 0
    expected = with_fold(load(tmp_path / "prepared"), 2, 3, folder=tmp_path / "prepared")
    assert expected.fingerprint != with_fold(cohort, 2, 3).fingerprint
    opened = open_cohort(f"{address}@2/3")
    assert opened.fingerprint == expected.fingerprint
    assert np.array_equal(opened.pixels[opened.rows("val")], cohort.pixels[expected.rows("val")])
    assert opened.mean_std() == expected.mean_std()


def test_joined_with_a_memory_map(tmp_path) -> None:
    here, there = (open_cohort("phantom:30", pixel_size=32, seed=seed, show=False) for seed in (0, 1))
    upload(there, f"memory://{tmp_path}/phantom", chunk_bytes=CHUNK)
    local, opened = join([here, there]), join([here, open_cohort(f"memory://{tmp_path}/phantom")])
    assert opened.fingerprint == local.fingerprint
    assert np.array_equal(opened.pixels[20:50], local.pixels[20:50])


def test_the_command_names_what_comes_next(cohort, tmp_path, capsys) -> None:
    address = f"memory://{tmp_path}/named"
    assert main(["upload", str(tmp_path / "prepared"), "--to", address, "--chunk_mb", "0.005"]) == 0
    said = capsys.readouterr().out
    assert "60 images in" in said
    assert f"next:  uv run finetune --data {address} --run named" in said
    assert main(["show", address]) == 0
    assert "fingerprint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("cohorts/mine", "an address such as s3://bucket/cohort"),
        ("", "an address such as s3://bucket/cohort"),
        ("nonsense://a/b", "an address that fsspec knows"),
        ("abfs://a/b", "the package that reads abfs:// addresses"),
    ],
)
def test_addresses_that_cannot_work(cohort, tmp_path, capsys, to, message) -> None:
    assert main(["upload", str(tmp_path / "prepared"), "--to", to]) == 2
    assert message in capsys.readouterr().err


def test_another_cohort_is_not_written_over(cohort, url, two_classes, tmp_path) -> None:
    other = prepare(two_classes, tmp_path / "other", pixel_size=32, show=False, seed=5)
    before = stored(url)
    with pytest.raises(BadInput, match="an address without another cohort"):
        upload(other, url)
    assert stored(url) == before
    upload(cohort, url, chunk_bytes=CHUNK)  # itself, again
    assert stored(url) == before


def test_an_upload_that_was_interrupted_is_no_cohort(cohort, tmp_path, monkeypatch) -> None:
    address, write, count = f"file://{tmp_path}/cut", remote.Remote.write, []

    def interrupted(self, name, content):
        count.append(name)
        if len(count) == 4:
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(remote.Remote, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upload(cohort, address, chunk_bytes=CHUNK)
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == sorted(count[:3])
    with pytest.raises(BadInput, match=r"no such file(?s:.*)cohort\.json(?s:.*)interrupted"):
        open_cohort(address)
    monkeypatch.setattr(remote.Remote, "write", write)
    upload(cohort, address, chunk_bytes=CHUNK)
    assert np.array_equal(open_cohort(address).pixels[:], cohort.pixels)
    count.clear()
    monkeypatch.setattr(remote.Remote, "write", interrupted)  # and when it is written over
    with pytest.raises(KeyboardInterrupt):
        upload(cohort, address, chunk_bytes=2 * CHUNK)
    with pytest.raises(BadInput, match="no such file"):
        load_chunks(address)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "other bytes"),
        (lambda content: content[:100], "found 100 bytes"),
        (None, "no such file"),
    ],
)
def test_a_damaged_or_missing_chunk_is_named(url, damage, message) -> None:
    opened = open_cohort(url)
    content = stored(url)["val-00000.npy"]
    if damage is None:
        fsspec.filesystem("memory").rm_file(f"{url}/val-00000.npy")
    else:
        put(url, "val-00000.npy", damage(content))
    with pytest.raises(BadInput, match=rf"{message}(?s:.*)val-00000\.npy"):
        opened.pixels[opened.rows("val")]
    assert not any(chunk_cache().folder.glob("*.npy"))  # nothing half-written, nothing wrong kept
    opened.pixels[opened.rows("test")]  # what is whole can be read


@pytest.mark.parametrize("name", ["cohort.parquet", "cohort.json"])
def test_a_damaged_table_is_named(url, name) -> None:
    put(url, name, stored(url)[name][:50])
    with pytest.raises(BadInput, match=r"damaged|found 50 bytes"):
        open_cohort(url)


@pytest.mark.parametrize(
    ("field", "value"), [("name", "../val-00000.npy"), ("name", "/val.npy"), ("sha256", "../" * 20)]
)
def test_names_of_chunks_stay_in_their_folder_and_in_the_cache(url, field, value) -> None:
    about = json.loads(stored(url)["cohort.json"])
    about["chunks"]["files"][0][field] = value
    put(url, "cohort.json", json.dumps(about).encode())
    with pytest.raises(BadInput, match="damaged one: a chunk called"):
        open_cohort(url)


def test_a_connection_that_breaks_once_is_tried_again(url, monkeypatch) -> None:
    opened, cat, calls = open_cohort(url), fsspec.filesystem("memory").cat_file, []

    def breaks(self, path, **options):
        calls.append(path)
        if len(calls) % 3:
            raise ConnectionResetError("reset by peer")
        return cat(path, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", breaks)
    assert len(opened.pixels[opened.rows("test")])
    assert len(calls) % 3 == 0
    monkeypatch.setattr(remote, "WAITS", ())
    with pytest.raises(BadInput, match=r"ConnectionResetError: reset by peer(?s:.*)resumes"):
        opened.pixels[opened.rows("train")]
    assert not list(chunk_cache().folder.glob(".*.part"))


def test_a_folder_that_is_no_cohort_in_chunks(cohort, tmp_path) -> None:
    with pytest.raises(BadInput, match="one in a memory map"):
        open_cohort(f"file://{tmp_path}/prepared")


def test_the_cache_never_exceeds_its_size(cohort, url, monkeypatch) -> None:
    size = len(stored(url)["train-00000.npy"])
    limit = 3 * size
    monkeypatch.setenv("CXR_CACHE_GB", repr(limit / 1e9))
    opened, cache = open_cohort(url), chunk_cache()
    assert cache.limit == limit
    most, real = [], os.replace

    def noted(*paths):
        real(*paths)
        most.append(sum(path.stat().st_size for path in cache.folder.iterdir() if path.is_file()))

    monkeypatch.setattr(os, "replace", noted)
    reads = [threading.Thread(target=lambda: [opened.pixels[[row]] for row in range(60)]) for _ in range(3)]
    for thread in reads:
        thread.start()
    for row in np.random.default_rng(0).integers(0, 60, 60):
        assert np.array_equal(opened.pixels[row], cohort.pixels[row])
    for thread in reads:
        thread.join()
    assert len(most) > 12
    assert max(most) <= limit
    cache._make_room(0)
    assert {f"{sha256}.npy" for sha256 in cache._open} <= {path.name for path in kept()}  # no map of what was evicted


def test_the_least_recently_used_chunk_is_evicted(url, monkeypatch) -> None:
    size = len(stored(url)["train-00000.npy"])
    monkeypatch.setenv("CXR_CACHE_GB", repr(3 * size / 1e9))
    opened = open_cohort(url)
    first, second, third, fourth = (opened.rows("train")[5 * number] for number in range(4))
    for row in (first, second, third, first, fourth):
        opened.pixels[row]
    fetched = []
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda *_: fetched.append(1))
    for row in (first, third, fourth):
        opened.pixels[row]
    assert not fetched


def test_a_cache_damaged_or_emptied_meanwhile_is_filled_again(cohort, url) -> None:
    opened = open_cohort(url)
    assert np.array_equal(opened.pixels[:], cohort.pixels)
    damaged, removed, other = kept()[:3]
    removed.unlink()
    assert np.array_equal(opened.pixels[:], cohort.pixels)
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    other.write_bytes(b"")
    chunk_cache()._open.clear()  # as a new process
    assert np.array_equal(opened.pixels[:], cohort.pixels)
    assert damaged.read_bytes() == content
    assert not list(chunk_cache().folder.glob(".*.part"))


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf"])
def test_sizes_of_a_cache_that_cannot_work(url, monkeypatch, capsys, text) -> None:
    monkeypatch.setenv("CXR_CACHE_GB", text)
    assert main(["show", url]) == 2
    assert "CXR_CACHE_GB" in capsys.readouterr().err


def test_a_cache_of_less_than_two_chunks_is_refused(url, monkeypatch) -> None:
    monkeypatch.setenv("CXR_CACHE_GB", "0.000006")
    with pytest.raises(BadInput, match="a cache of at least two chunks"):
        open_cohort(url)


def test_the_window_follows_from_the_cache_and_is_part_of_the_identity(cohort, url, monkeypatch) -> None:
    opened = open_cohort(url)
    rows = opened.rows("train")
    assert shuffle_window(cohort, rows) is None
    assert shuffle_window(opened, rows) is None
    assert shuffle_identity(opened) == {}
    size = len(stored(url)["train-00000.npy"])
    identities = []
    for chunks in (3, 4, 8):
        monkeypatch.setenv("CXR_CACHE_GB", repr(chunks * size / 1e9))
        opened = open_cohort(url)
        window = shuffle_window(opened, rows)
        assert isinstance(window, Window)
        assert window.chunks == chunks * 3 // 4
        assert np.array_equal(window.chunk_of, np.arange(len(rows)) // 5)
        identities.append(json.dumps(shuffle_identity(opened)))
    assert len(set(identities)) == 3


def test_windows_count_the_chunks_of_joined_cohorts(cohort, url, monkeypatch) -> None:
    monkeypatch.setenv("CXR_CACHE_GB", repr(3 * len(stored(url)["train-00000.npy"]) / 1e9))
    opened = open_cohort(url)
    both = PixelRows([opened.pixels, cohort.pixels], np.arange(10, 90))
    window = shuffle_window(replace(opened, pixels=both), np.arange(80))
    assert window is not None
    assert len(np.unique(window.chunk_of)) > 10
    assert len(set(window.chunk_of[50:].tolist())) == 1  # of a small memory map


@given(st.sampled_from(["s3://b/c", "gs://b", "file:///a", "memory://x", "simplecache::s3://b/c"]))
def test_addresses_are_known_from_paths(address: str) -> None:
    assert is_url(address)
    assert not any(map(is_url, ("cohorts/mine", "phantom:500", "C:/data", "folder#A,B", "a:b", Path("x"))))
