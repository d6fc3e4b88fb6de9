"""Each member builds to a wheel on its own, brings what its job needs and no more, and works with just that."""

import importlib.metadata
import json
import re
import resource
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from exports import write_onnx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cxr_common.checkpoint import Header, Input
from cxr_common.models.zoo import GrayNetwork, build

ROOT = Path(__file__).parent.parent
MEMBERS = {
    "data": {
        "cxr_data.preparation.prepare",
        "cxr_data.sources",
        "cxr_data.auditing",
        "cxr_data.models.header",
        "cxr_data.timing",
    },
    "common": {"cxr_common.checkpoint", "cxr_common.models.zoo", "cxr_common.training.resume"},
    "ssl": {"cxr_ssl.train"},
    "distill": {"cxr_distill.train", "cxr_distill.losses"},
    "eval": {"cxr_eval.command"},
    "deploy": {"cxr_deploy.predict.predict", "cxr_deploy.benchmark.benchmark", "cxr_deploy.runtimes"},
    "recipes": {"cxr_recipes.runner", "cxr_recipes.gpu_check.check"},
}
WITHOUT = {
    "data": {"torch", "onnx", "onnxruntime", "scipy", "matplotlib", "lightly"},
    "common": {"onnx", "onnxruntime", "matplotlib", "lightly"},
    "distill": {"onnx", "onnxruntime", "matplotlib", "lightly"},
    "eval": {"onnx", "onnxruntime", "lightly"},
    "deploy": {"torch", "torchvision", "timm", "onnx", "matplotlib", "lightly", "openvino", "cxr-common"},
}
"""Distributions that a member must not bring."""


def uv(*arguments: str) -> str:
    done = subprocess.run(["uv", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def project(member: str) -> dict:
    return tomllib.loads((ROOT / "packages" / member / "pyproject.toml").read_text())["project"]


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that come with what is required here, as installed in this environment."""
    names: set[str] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        names.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # overridden in this environment, as opencv-python is
            continue
        for wanted in ("", *requirement.extras):
            waiting += [(Requirement(line), wanted) for line in needed]
    return names


def brought(member: str, extra: str = "") -> set[str]:
    """Names of the distributions that a member brings."""
    declared = project(member)
    return closure(declared["dependencies"] + (declared["optional-dependencies"][extra] if extra else []))


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


ALONE = """
import importlib, importlib.abc, importlib.machinery, importlib.metadata as metadata, re, sys
site, tops, names, modules = sys.argv[1], set(sys.argv[2].split()), set(sys.argv[3].split()), sys.argv[4].split()
class Brought(metadata.DistributionFinder):
    def find_spec(self, name, path=None, target=None):
        wanted = path is None and name in tops
        return importlib.machinery.PathFinder.find_spec(name, [site], target) if wanted else None
    def find_distributions(self, context=metadata.DistributionFinder.Context()):
        if context.name is None or re.sub("[-_.]+", "-", context.name).lower() not in names:
            return iter(())
        there = metadata.DistributionFinder.Context(name=context.name, path=[site])
        return metadata.MetadataPathFinder.find_distributions(there)
sys.meta_path.append(Brought())
for module in modules:
    importlib.import_module(module)
print(sys.modules[modules[0].partition(".")[0]].__file__)
"""
"""Imports modules where only the distributions with these names and top-level modules seem to be installed."""


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_works_with_what_it_brings_alone(member, wheels, tmp_path) -> None:
    environment = tmp_path / "env"
    python = environment / "bin" / "python"
    uv("venv", "--offline", "--python", sys.executable, str(environment))
    names = brought(member)
    ours = {member, *(name for name in MEMBERS if f"cxr-{name}" in names)}
    uv("pip", "install", "--offline", "--no-deps", "--python", str(python), *(str(wheels[name]) for name in ours))
    # Third parties as this environment has them, those alone that come along.
    site = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    tops = importlib.metadata.packages_distributions()
    known = {top for top, owners in tops.items() if {canonicalize_name(owner) for owner in owners} & names}
    arguments = [str(site), " ".join(known), " ".join(names), " ".join(sorted(MEMBERS[member]))]
    # -I: neither this folder nor PYTHONPATH.
    command = [str(python), "-I", "-c", ALONE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(environment))


@pytest.mark.parametrize("member", WITHOUT)
def test_a_member_brings_nothing_its_job_does_not_need(member) -> None:
    names = brought(member)
    assert not names & WITHOUT[member], sorted(names)


def test_extras_bring_what_they_say() -> None:
    assert {"torch", "onnx", "cxr-common"} <= brought("deploy", "export")
    assert "openvino" in brought("deploy", "openvino")


def test_wheels_hold_types_and_recipes_and_no_tests(wheels) -> None:
    names = {member: zipfile.ZipFile(path).namelist() for member, path in wheels.items()}
    for member, files in names.items():
        assert f"cxr_{member}/py.typed" in files
        assert not [name for name in files if re.search(r"(^|[/_])tests?([/_.]|$)", name)]
    assert "cxr_recipes/recipes/quickstart.yaml" in names["recipes"]
    assert {f"cxr_eval/report/template/{name}" for name in ("page.html", "script.js", "style.css")} <= set(
        names["eval"]
    )
    page = ("index.html", "style.css", "icon.svg", "app.js", "bar.js", "pixels.js", "dicom.js")
    assert {f"cxr_deploy/web/{name}" for name in page} <= set(names["deploy"])
    shipped = ("model.int8.onnx", "card.md", "record.json", "page.html", "page.js")
    assert {f"cxr_deploy/demo/{name}" for name in shipped} <= set(names["deploy"])
    assert "cxr_eval/metrics.schema.json" in names["eval"]


FIRST_ANSWER = """
import sys
import numpy as np
import cxr_deploy
answer = cxr_deploy.load(sys.argv[1])(np.random.default_rng(0).integers(0, 256, (300, 280), np.uint8))
print(answer.probabilities["effusion"])
"""


@pytest.mark.nightly
def test_deploy_from_the_package_index_is_small_quick_and_without_torch(wheels, tmp_path) -> None:
    """Takes a network: the real dependencies of cxr-deploy, in an empty environment."""
    environment = tmp_path / "env"
    python = environment / "bin" / "python"
    uv("venv", "--python", sys.executable, str(environment))
    try:
        uv("pip", "install", "--python", str(python), str(wheels["data"]), str(wheels["deploy"]))
    except AssertionError as error:
        if "network" in str(error) or "error sending request" in str(error):
            pytest.skip("no network")
        raise
    size = sum(path.lstat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    listed = {entry["name"] for entry in json.loads(uv("pip", "list", "--format", "json", "--python", str(python)))}
    print(f"{size / 2**20:.0f} MiB: {', '.join(sorted(listed))}")
    assert size < 500 * 2**20
    assert not listed & WITHOUT["deploy"]

    network = GrayNetwork(build("resnet18", 1, size=224), 0.5, 0.25).eval()
    header = Header("model", "resnet18", Input(224, 0.5, 0.25), "multilabel", ("effusion",), thresholds=(0.5,))
    write_onnx(network, header, tmp_path / "model.onnx")

    def quickest(*command: str) -> float:
        """Least of ten processor times, which a busy machine changes less than the clock's."""
        times = []
        for _ in range(10):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.returncode == 0, done.stderr
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(times)

    helped = quickest(str(environment / "bin" / "predict"), "--help")
    answered = quickest(str(python), "-c", FIRST_ANSWER, "model.onnx")
    cv2.imwrite(str(tmp_path / "image.png"), np.random.default_rng(0).integers(0, 256, (300, 280), np.uint8))
    from_shell = quickest(str(environment / "bin" / "predict"), "model.onnx", "image.png")
    print(f"predict --help {helped:.2f} s; first answer {answered:.2f} s; `predict` on one image {from_shell:.2f} s")
    assert helped < 0.3
    assert answered < 2
    assert from_shell < 2

    done = subprocess.run(
        [str(environment / "bin" / "export-model"), "model.safetensors"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "cxr-deploy[export]" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
