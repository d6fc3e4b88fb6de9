"""Names as people and programs spell them: which spellings of a label, or of a patient, mean the same."""

import re
import unicodedata
from decimal import Decimal

POWER_OF_TEN = re.compile(r"\d+([.,]\d+)?[eE]\+\d{1,2}")
"""Numbers as a spreadsheet writes long ones: 1.2E+05."""
_HEALTHY = {
    *("normal", "healthy", "negative", "nofinding", "nofindings", "control", "controls", "clear", "none"),
    *("unremarkable", "noabnormality", "noabnormalities", "nodisease", "nopathology"),
}


def spelling_key(name: str) -> str:
    """A class name without case, invisible characters, and spaces, underscores and hyphens beside a letter.

    A whole number is without decimals.
    """
    if re.fullmatch(r"-?\d+\.0+", name):
        return name.partition(".")[0]
    return re.sub(r"(?<=[^\W\d_])[\s_-]+(?=\w)|(?<=[^\W_])[\s_-]+(?=[^\W\d_])", "", _seen(name)).casefold()


def patient_key(name: str) -> str:
    """A patient's name or number without case, invisible characters, leading zeros, decimals and powers of ten.

    What spreadsheets write around text to keep it text is left out too: ="0007", '0007.
    """
    seen = _seen(name).removeprefix("=").strip("'\" ")
    if number := re.fullmatch(r"0*(\d+)([.,]0*)?", seen):
        return number[1]
    if POWER_OF_TEN.fullmatch(seen):
        return f"{Decimal(seen.replace(',', '.')):.0f}"
    return seen.casefold()


def _seen(name: str) -> str:
    """A name as it is seen: composed, with single spaces, without invisible characters."""
    composed = " ".join(unicodedata.normalize("NFKC", name).split())
    return "".join(letter for letter in composed if unicodedata.category(letter) not in ("Cf", "Cc")).strip()


def sounds_healthy(name: str) -> bool:
    """Whether a class or folder name means that nothing was found ("NORMAL", "0_normal", "No Finding")."""
    return re.sub(r"[^a-z]", "", name.lower()) in _HEALTHY
