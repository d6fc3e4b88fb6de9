"""Places on the Hub, asked of a server on this machine through huggingface_hub's own client."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_data.errors import BadInput
from cxr_data.models import hub
from cxr_data.models.header import portable
from cxr_data.models.hub import hub_source
from cxr_data.models.licences import of_file

CARD = b"---\nlicense: other\nlicense_name: msrla\n---\n# A model\n"
FILES = {"model.safetensors": b"weights", "README.md": CARD, "config.json": b"{}", "notes.txt": b"not wanted"}
CODE = """
import sys
from cxr_data.errors import BadInput
from cxr_data.models.hub import local, weights
for word in sys.argv[1:]:
    try:
        print(weights(word))
    except BadInput as error:
        print(" | ".join(str(error).splitlines()))
"""


def asked(home: Path, endpoint: str, *words: str, **environment: str) -> list[str]:
    pytest.importorskip("huggingface_hub")
    given = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "60",
        **environment,
    }
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_repository_is_fetched_once_and_every_failure_is_one_message(tmp_path, loopback_hub) -> None:
    sha = loopback_hub.SHA
    repositories = {"owner/model": dict(FILES), "owner/empty": {"README.md": CARD}, "owner/gated": dict(FILES)}
    with loopback_hub.serving(repositories) as server:
        words = ("hf:owner/model", f"hf:owner/model@{sha}", "hf:owner/model@v9", "hf:owner/none", "hf:owner/gated")
        words = (*words, "hf:owner/empty", "hf:a/b/c")
        first, pinned, revision, none, gated, empty, wrong = asked(tmp_path, server.endpoint, *words)
        assert Path(first).read_bytes() == b"weights"
        assert first == pinned
        assert not (Path(first).parent / "notes.txt").exists()
        assert hub_source(Path(first)) == f"hf:owner/model@{sha[:12]}"
        assert of_file(first.replace(".safetensors", ".bin"))["licence"] == "msrla"
        assert "no such branch, tag or commit" in revision
        assert "none of this name" in none
        assert "a gated one, and no login" in gated
        assert "log in: hf auth login, or set HF_TOKEN; ask for access at https://huggingface.co/owner/gated" in gated
        (refused,) = asked(tmp_path, server.endpoint, "hf:owner/gated", HF_TOKEN="hf_x")
        assert "a gated one, to which this login has no access" in refused
        assert "a folder with model.safetensors" in empty
        assert "hf:OWNER/NAME" in wrong
        fetched = len(server.asked)
        assert asked(tmp_path, server.endpoint, f"hf:owner/model@{sha}", HF_HUB_OFFLINE="1") == [first]
        unknown, other = asked(tmp_path, server.endpoint, "hf:owner/other", "hf:owner/model@v9", HF_HUB_OFFLINE="1")
        assert "bring its folder here" in unknown
        assert "expected revision v9 in the cache or a network" in other
        assert f"of this repository the cache has {sha} (main)" in other
        assert f"as hf:owner/model@{sha}, or run it once with a network and without HF_HUB_OFFLINE" in other
        assert len(server.asked) == fetched
    assert asked(tmp_path, server.endpoint, "hf:owner/model") == [first]  # nobody answers any more
    (gone,) = asked(tmp_path, server.endpoint, "hf:owner/other")
    assert "a repository in the cache or a network" in gone
    Path(first).unlink()  # as where another program has fetched the configuration alone
    (part,) = asked(tmp_path, server.endpoint, "hf:owner/model", HF_HUB_OFFLINE="1")
    assert "found a part of main in the cache, and no network" in part
    assert "run it once with a network and without HF_HUB_OFFLINE" in part


def test_a_folder_is_as_good_as_a_repository(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert hub.weights(tmp_path) == tmp_path / "model.safetensors"
    assert hub.weights(tmp_path / "model.safetensors") == tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="nothing in it"):
        hub.weights(tmp_path)


def test_weights_files_name_the_repository_whole() -> None:
    kept = portable({"teacher": ["hf:owner/model@v1", "/home/me/model.safetensors"], "start": "timm:resnet18"})
    assert kept == {"teacher": ["hf:owner/model@v1", "model.safetensors"], "start": "timm:resnet18"}
