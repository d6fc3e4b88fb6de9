import pytest

from cxr_data.errors import BadInput
from cxr_deploy import extras


def test_an_extra_that_is_installed_is_no_matter():
    extras.require("export", "this")
    assert extras.installed("export")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(extras.EXTRAS, "export", ("no_such_module", "numpy"))
    with pytest.raises(BadInput, match=r"no no_such_module\n.*pip install 'cxr-deploy\[export\]'"):
        extras.require("export", "this")
