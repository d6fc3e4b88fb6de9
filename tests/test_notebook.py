"""The notebook in examples/ runs from the first cell to the last, and carries no outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "first_hour.ipynb"
TINY = """
data, size, run = "phantom:60", 32, "tiny"
epochs = {"ssl": 1, "teacher": 1, "student": 1}
teacher, student = "resnet18", "resnet10t"
"""


def test_no_output_is_kept() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 9
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_every_cell_runs(tmp_path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    given = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert len(given) == 1
    given[0].source = TINY
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    said = "".join(output.get("text", "") for output in outputs)
    assert "resnet10t against resnet10t-control" in said
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").exists()
