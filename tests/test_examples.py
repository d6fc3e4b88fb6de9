"""The programs in examples/ run, and the manual shows them as they are."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_manual_shows_an_example_as_it_is(example) -> None:
    program = example.read_text("utf-8")
    assert len(program.splitlines()) <= 40
    assert f"```python\n{program}```" in (ROOT / "docs" / "python.md").read_text("utf-8")
