"""Documentation, messages and comments use the field's standard words; docs/glossary.md says which."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BANNED = {
    r"\b(rooms?|houses?)\b": "module or package",
    r"\bcommittees?\b": "ensemble of teachers",
    r"\bmisgivings?\b": "warning",
    r"\bhopeless\b": "plan that must collapse",
    r"\bdrown(s|ed|ing)?\b": "dominates the gradient",
    r"\b(whom|who) (it|he) is (told|taught) by\b": "teacher",
    r"\bwho learns\b": "student",
    r"\bgo(es)? on past\b": "skips and lists",
    r"\bgo(es)? on (with|from|exactly|where)\b": "resumes",
    r"\bagain to go on\b": "again to resume",
    r"\bits first when empty\b": "Default: …, and None in the config",
    r"\b(what|which) (it|the teacher) (brought|brings)\b": "gain",
    r"\bstage[1-4]\b": "level1 to level4, feature levels; a stage is a step of a run",
    r"\bremed(y|ies)\b": "treatment of imbalance, recovery from collapse",
    r"points \(hundredths\)": "percentage points",
    r"\bhardly tell\b": "within seed-to-seed variation",
    r"\bthe network eats\b": "network input",
    r"\bleaves? behind\b": "writes",
    r"\bone (row|line|folder|file) an? (?!empty)\w+": "one … per …",
    r"\b(an image|a label|a finding) a (row|line)\b": "one per",
}
"""Pattern -> the standard word."""


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    kinds = (".py", ".md", ".html", ".js", ".yaml", ".toml")
    paths = [Path(line) for line in listed.stdout.splitlines() if line.endswith(kinds)]
    return [ROOT / path for path in paths if path.name != "test_language.py" and (ROOT / path).is_file()]


def test_no_private_words() -> None:
    found = []
    for file in files():
        text = file.read_text("utf-8").lower()
        for pattern, standard in BANNED.items():
            for match in re.finditer(pattern, text, re.M):
                number = text.count("\n", 0, match.start()) + 1
                found.append(f"{file.relative_to(ROOT)}:{number}: {match[0]!r}; write: {standard}")
    assert not found, "\n".join(found)
