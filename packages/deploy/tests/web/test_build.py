import io
import json
import shutil
import tarfile

import onnx
import pytest

from cxr_data.errors import BadInput
from cxr_deploy.web import runtime_files as ort
from cxr_deploy.web.build import PAGE, build


@pytest.fixture
def package(tmp_path):
    """An unpacked package with the right names."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in ort.FILES:
        (folder / name).write_text(name)
    return folder.parent


def test_a_page_is_static_files_alone(exported, package, tmp_path):
    folder = tmp_path / "page"
    for _ in range(2):  # the second replaces the first
        build(folder, exported, "student", str(package))
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert names == {*PAGE, "model.onnx", "model.json", *(f"ort/{name}" for name in ort.FILES)}
    facts = json.loads((folder / "model.json").read_text())
    assert facts["labels"] == ["NORMAL", "PNEUMONIA"]
    assert facts["thresholds"] == [0.45, 0.55]
    assert facts["name"] == "student"
    assert facts["sha256"] == "ab" * 32
    assert facts["bytes"] == (folder / "model.onnx").stat().st_size
    assert (facts["size"], facts["stored"], facts["aspect"], facts["window"]) == (96, 128, "squash", "voi")
    assert facts["licences"] == [
        "licence: CC-BY-4.0",
        "made from <b>rad</b>/model.safetensors (hf:org/rad@1): licence MSRLA",
    ]
    assert facts["forbidden"].startswith("WARNING: NOT FOR COMMERCIAL USE: the licence of <b>rad</b>")
    html = (folder / "index.html").read_text()
    assert "For research only" in html
    assert "python -m http.server" in html  # a page opened as a file runs no script that could say so
    assert "default-src 'none'" in html
    for name in PAGE:
        assert "http://" not in (text := (folder / name).read_text()).replace("http://www.w3.org", "")
        assert "https://" not in text


def test_nothing_of_the_training_is_published(exported, package, tmp_path):
    build(tmp_path / "page", exported, "student", str(package))
    model = onnx.load(tmp_path / "page" / "model.onnx")
    assert [entry.key for entry in model.metadata_props] == ["cxr_labels"]
    for path in (tmp_path / "page").rglob("*.*"):
        assert b"somebody" not in path.read_bytes()


def test_a_folder_with_other_files_is_left_alone(exported, package, tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="thesis"):
        build(tmp_path / "page", exported, "student", str(package))
    assert (tmp_path / "page" / "thesis.txt").read_text() == "mine"


def archive(path, members):
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def test_only_the_pinned_archive_is_taken(tmp_path, monkeypatch):
    members = {f"package/dist/{name}": name.encode() for name in ort.FILES}
    path = archive(tmp_path / "a.tgz", {**members, "../../evil": b"x", "package/dist/more.js": b"y"})
    with pytest.raises(BadInput, match="SHA-512 differs"):
        ort.runtime_files(str(path))
    monkeypatch.setattr(ort, "INTEGRITY", ort.integrity(path.read_bytes()))
    assert ort.runtime_files(str(path)) == {name: name.encode() for name in ort.FILES}
    assert not (tmp_path.parent / "evil").exists()
    short = archive(tmp_path / "b.tgz", dict(list(members.items())[:2]))
    monkeypatch.setattr(ort, "INTEGRITY", ort.integrity(short.read_bytes()))
    with pytest.raises(BadInput, match="damaged"):
        ort.runtime_files(str(short))


def test_integrity_is_in_npms_notation():
    # echo -n abc | openssl dgst -sha512 -binary | base64 -w0
    known = "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw=="
    assert ort.integrity(b"abc") == f"sha512-{known}"


def test_without_npm_or_network_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="--ort_web"):
        ort.runtime_files()
    npm = tmp_path / "npm-that-fails"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    with pytest.raises(BadInput, match="ENOTFOUND"):
        ort.runtime_files()
    with pytest.raises(BadInput, match=r"no ort\.wasm"):
        ort.runtime_files(str(tmp_path))
    with pytest.raises(BadInput, match="No such file"):
        ort.runtime_files(str(tmp_path / "missing.tgz"))
