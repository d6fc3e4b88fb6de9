"""Each member builds to a wheel on its own and works where only what it declares is installed."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MEMBERS = {
    "data": {"cxr_data.preparation", "cxr_data.sources", "cxr_data.auditing"},
    "common": {"cxr_common.checkpoint", "cxr_common.models.zoo", "cxr_common.training.resume"},
    "ssl": {"cxr_ssl.train"},
    "distill": {"cxr_distill.train", "cxr_distill.losses"},
    "eval": {"cxr_eval.evaluate"},
    "deploy": {"cxr_deploy.export.export", "cxr_deploy.predict.predict", "cxr_deploy.benchmark.benchmark"},
    "recipes": {"cxr_recipes.runner"},
}


def uv(*arguments: str) -> None:
    done = subprocess.run(["uv", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def declared(member: str) -> set[str]:
    """Members of the workspace that a member declares, itself included."""
    project = tomllib.loads((ROOT / "packages" / member / "pyproject.toml").read_text())["project"]
    names = {line.split(">")[0].split("[")[0].removeprefix("cxr-") for line in project["dependencies"]}
    return {member} | {name for other in names & set(MEMBERS) for name in declared(other)}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    if shutil.which("uv") is None:
        pytest.skip("uv is not on the path")
    out = tmp_path_factory.mktemp("wheels")
    built = {}
    for member in MEMBERS:
        # Built from a copy, so that nothing outside the member's folder can be leant on.
        copy = shutil.copytree(ROOT / "packages" / member, tmp_path_factory.mktemp(member) / member)
        uv("build", "--wheel", "--offline", "--out-dir", str(out / member), str(copy))
        built[member] = next((out / member).glob("*.whl"))
    return built


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_works_with_what_it_declares_alone(member, wheels, tmp_path) -> None:
    environment = tmp_path / "env"
    python = environment / "bin" / "python"
    uv("venv", "--offline", "--python", sys.executable, str(environment))
    needed = [str(wheels[name]) for name in sorted(declared(member))]
    uv("pip", "install", "--offline", "--no-deps", "--python", str(python), *needed)
    # Third parties as this environment has them: a folder on the path, without our own packages.
    ours = [f"cxr_{name}" for name in MEMBERS if name not in declared(member)]
    site = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    code = (
        f"import sys, importlib; sys.path.append({str(site)!r})\n"
        f"for module in {sorted(MEMBERS[member])}: importlib.import_module(module)\n"
        "import importlib.util as u\n"
        f"print([m for m in {ours} if m in sys.modules], sys.modules[{f'cxr_{member}'!r}].__file__)\n"
    )
    # -I: neither this folder nor PYTHONPATH; the editable members of the workspace are .pth files, which a folder
    # appended to the path does not run.
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    leaked, place = done.stdout.strip().split("] ")
    assert leaked == "["
    assert place.startswith(str(environment))


def test_wheels_hold_types_and_recipes_and_no_tests(wheels) -> None:
    import zipfile

    names = {member: zipfile.ZipFile(path).namelist() for member, path in wheels.items()}
    for member, files in names.items():
        assert f"cxr_{member}/py.typed" in files
        assert not [name for name in files if "test" in name]
    assert "cxr_recipes/recipes/quickstart.yaml" in names["recipes"]
    assert {f"cxr_eval/report/template/{name}" for name in ("page.html", "script.js", "style.css")} <= set(
        names["eval"]
    )
    page = ("index.html", "style.css", "icon.svg", "app.js", "pixels.js", "dicom.js")
    assert {f"cxr_deploy/web/{name}" for name in page} <= set(names["deploy"])
