"""Models on the Hugging Face Hub ("hf:OWNER/NAME@REVISION"), and folders laid out like a Hub repository."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cxr_data.errors import BadInput, require_modules

PREFIX = "hf:"
_CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)$")
WEIGHTS = (
    "model.safetensors",
    "backbone.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""Names of weights files in a repository, the best first."""

_BESIDE = ("config.json", "open_clip_config.json", "preprocessor_config.json", "metrics.json", "README.md")
_FIRST = (*_BESIDE, *(name for name in WEIGHTS if name.endswith(".safetensors")), "model.onnx", "model.int8.onnx")

T = TypeVar("T")


def local(word: str | Path) -> Path:
    """The folder of a Hub repository on this machine, fetched through huggingface_hub's cache; any other path as it is.

    Args:
        word: "hf:OWNER/NAME", with "@REVISION" behind it (branch, tag or commit) where it shall be pinned; or a path.

    Raises:
        BadInput: No such repository or revision, one whose terms are not accepted, or no network and nothing cached.
    """
    word = str(word)
    if not word.startswith(PREFIX):
        try:
            Path(word).is_dir()
        except OSError as error:  # a name too long, a folder that may not be looked into
            raise BadInput("a path", error.strerror or str(error), where=f"{word:.200}") from error
        return Path(word)
    repository, _, revision = word.removeprefix(PREFIX).partition("@")
    hub = _library()

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(patterns)))

    folder = asked(lambda: fetch(_FIRST), repository, revision)
    if not any((folder / name).is_file() for name in _FIRST[len(_BESIDE) :]):
        folder = asked(lambda: fetch((*_BESIDE, *WEIGHTS)), repository, revision)
    return folder


def weights(word: str | Path) -> Path:
    """The weights file that a place names: a file, or the one in a folder or Hub repository.

    Raises:
        BadInput: As `local`, or a folder without any.
    """
    path = local(word)
    if not path.is_dir():
        return path
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "nothing"
        do = "name the file itself"
        if str(word).startswith(PREFIX):
            do = "if the cache holds a part of it, run it once with a network; else download its file and give the path"
        raise BadInput(f"a folder with {WEIGHTS[0]}", f"{names} in it", where=word, do=do)
    return file


def upload(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder as a repository of models, made where there is none; returns the commit's address.

    Raises:
        BadInput: Not logged in, not allowed, or no network.
    """
    hub = _library()

    def send() -> str:
        api = hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(folder_path=folder, repo_id=repository, commit_message=message))

    return asked(send, repository)


def asked(call: Callable[[], T], repository: str, revision: str = "") -> T:
    """What a call of huggingface_hub returns; its errors as ours.

    Args:
        call: Asks the Hub.
        repository: "OWNER/NAME".
        revision: Branch, tag or commit that is asked for; "" is main.

    Raises:
        BadInput: The call failed.
    """
    errors = _library().errors
    where = f"{PREFIX}{repository}"
    try:
        return call()
    except errors.HFValidationError as error:
        raise BadInput(f"a repository {PREFIX}OWNER/NAME", repository, where=where) from error
    except errors.GatedRepoError as error:
        ask = f"ask for access at https://huggingface.co/{repository} (some owners decide by hand)"
        if getattr(error.response, "status_code", 401) == 401:
            found, do = "a gated one, and no login", f"log in: hf auth login, or set HF_TOKEN; {ask}"
        else:
            found, do = "a gated one, to which this login has no access", f"{ask}, or log in as somebody who has it"
        raise BadInput("a repository that you may read", found, where=where, do=do) from error
    except errors.RepositoryNotFoundError as error:
        do = "check the name; for a private one log in: hf auth login, or set HF_TOKEN"
        raise BadInput("a repository on the Hub", "none of this name, or a private one", where=where, do=do) from error
    except errors.RevisionNotFoundError as error:
        do = f"its branches and tags are listed at https://huggingface.co/{repository}/tree/main"
        raise BadInput(f"revision {revision}", "no such branch, tag or commit", where=where, do=do) from error
    except errors.LocalTokenNotFoundError as error:
        do = "log in: hf auth login, or set HF_TOKEN"
        raise BadInput("a login for the Hub", "none", where=where, do=do) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no status")
        do = "log in: hf auth login, or set HF_TOKEN" if status in (401, 403) else "try again later"
        raise BadInput("an answer of the Hub", f"{status}: {str(error).splitlines()[0]}", where=where, do=do) from error
    except Exception as error:  # of the network, by whichever library asks it
        kinds = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError)
        if not isinstance(error, kinds) and type(error).__module__.split(".")[0] not in (
            "httpx",
            "httpcore",
            "requests",
        ):
            raise
        do = "run it once with a network, or bring its folder here and give the path"
        if os.environ.get("HF_HUB_OFFLINE"):
            do = do.replace("a network", "a network and without HF_HUB_OFFLINE")
        expected, found, cached = "a repository in the cache or a network", "neither", cached_revisions(repository)
        wanted = revision or "main"
        if any(wanted in (commit, *names) for commit, names in cached.items()):
            found = f"a part of {wanted} in the cache, and no network"
        elif cached:
            listed = [f"{commit} ({', '.join(names)})" if names else commit for commit, names in cached.items()]
            expected = f"revision {wanted} in the cache or a network"
            found = f"no network; of this repository the cache has {', '.join(listed)}"
            do = f"name what is there, as {where}@{next(iter(cached))}, or {do}"
        raise BadInput(expected, found, where=where, do=do) from error


def cached_revisions(repository: str) -> dict[str, list[str]]:
    """What huggingface_hub's cache holds of a repository: commit -> branches and tags that it is known by."""
    hub = _library()
    name = hub.file_download.repo_folder_name(repo_id=repository, repo_type="model")
    folder = Path(hub.constants.HF_HUB_CACHE, name)
    found: dict[str, list[str]] = {path.name: [] for path in sorted((folder / "snapshots").glob("*"))}
    for ref in sorted(path for path in (folder / "refs").rglob("*") if path.is_file()):
        names = found.get(ref.read_text("utf-8").strip())
        if names is not None:
            names.append(ref.relative_to(folder / "refs").as_posix())
    return found


def _library() -> Any:
    require_modules(["huggingface_hub"], "cxr-deploy[hub]", "a model on the Hub", instead="give the path of a folder")
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub


def hub_source(path: Path) -> str:
    """Address "hf:OWNER/NAME@REVISION" of a file in the cache of huggingface_hub; "" of any other."""
    parts = path.absolute().parts
    if "snapshots" not in parts:
        return ""
    at = len(parts) - 1 - parts[::-1].index("snapshots")
    match = _CACHED.match(parts[at - 1])
    return f"hf:{match['owner']}/{match['name']}@{parts[at + 1][:12]}" if match else ""
