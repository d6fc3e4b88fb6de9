"""Every name of the public API has an example, which runs and prints what it says; importing the package is light."""

import doctest
import inspect
import subprocess
import sys
import types

import pytest

import cxr_data

WITH_EXAMPLE = ("Cohort", "audit", "open_cohort", "prepare", "read_image")


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_examples_of_the_public_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(cxr_data, name), name)
    assert len(example.examples) >= 3
    assert runner.run(example).failed == 0


def test_public_names_are_there_documented_and_typed():
    assert set(WITH_EXAMPLE) <= set(cxr_data.__all__)
    for name in cxr_data.__all__:
        value = getattr(cxr_data, name)
        assert inspect.getdoc(value), name
        if isinstance(value, types.FunctionType):
            untyped = [p.name for p in inspect.signature(value).parameters.values() if p.annotation is p.empty]
            assert not untyped, (name, untyped)


def test_importing_the_package_imports_nothing_slow():
    code = (
        "import sys, cxr_data, cxr_data.cli\n"
        "slow = {'numpy', 'polars', 'cv2', 'pydicom', 'rich', 'jsonargparse', 'yaml', 'torch'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
