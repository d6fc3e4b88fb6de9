from pathlib import Path

from cxr_distill.losses import LOSSES
from cxr_distill.losses.page import page


def test_the_page_of_the_manual_is_that_of_the_code() -> None:
    written = (Path(__file__).parents[4] / "docs" / "losses.md").read_text("utf-8")
    assert written == page()
    assert all(f"## `{name}`" in written for name in LOSSES)
