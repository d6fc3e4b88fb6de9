"""The error for bad input: what was expected, what was found, where, and what to do."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class BadInput(Exception):
    """Bad input from the user: shown as one message without a traceback; the command exits with code 2.

    Args:
        expected: What the command needs, as a noun phrase ("a folder of class subfolders").
        found: What is there instead.
        where: The file, folder or option it was found in.
        do: What to do next.

    >>> from cxr_data import BadInput, open_cohort
    >>> try:
    ...     open_cohort("fantom")
    ... except BadInput as error:
    ...     print(error.do)
    check the spelling
    """

    def __init__(self, expected: str, found: str, *, where: str | Path | None = None, do: str | None = None):
        self.expected, self.found, self.where, self.do = expected, found, where, do
        lines = [f"expected {expected}, found {found}"]
        if where is not None:
            lines.append(f"  where: {where}")
        if do is not None:
            lines.append(f"  do:    {do}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker process too: Exception would be rebuilt from the finished message alone.
        return _bad_input, (self.expected, self.found, self.where, self.do)


def _bad_input(expected: str, found: str, where: str | Path | None, do: str | None) -> BadInput:
    return BadInput(expected, found, where=where, do=do)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names with commas between them, as many as can be read, and how many more there are.

    Examples:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def unknown_name(kind: str, name: str, known: Iterable[str], where: str | Path | None = None) -> BadInput:
    """The error for a name that is not on a list, with the nearest names that are.

    Args:
        kind: What the name should name ("architecture", "loss").
        name: The name given.
        known: Every name that would have worked.
        where: The file, folder or option it was found in.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(known)
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        do = f"did you mean {' or '.join(close)}?"
    elif len(names) <= 40:
        do = f"choose one of {', '.join(names)}"
    else:
        do = f"choose one of {len(names)} names such as {', '.join(names[:8])}"
    return BadInput(f"the name of a known {kind}", repr(name), where=where, do=do)


def require(holds: bool, expected: str, found: object, option: str) -> None:
    """Refuse the value of an option.

    Args:
        holds: Whether the value may be used.
        expected: What is needed instead, as a noun phrase.
        found: The value, or a text that says what it is.
        option: The option, such as "--epochs".

    Raises:
        BadInput: It does not hold.
    """
    if not holds:
        raise BadInput(expected, found if isinstance(found, str) else repr(found), where=option)


def require_options(config: object, **checks: tuple[bool, str]) -> None:
    """Refuse the value of the first option whose check fails.

    Args:
        config: Its attributes are the options.
        **checks: By option, whether its value may be used, and what is needed instead.

    Raises:
        BadInput: A check fails.
    """
    for option, (holds, expected) in checks.items():
        require(holds, expected, getattr(config, option), f"--{option}")


def require_known(kind: str, name: Any, known: Iterable[str], where: str | Path | None = None) -> None:
    """Refuse a name that is not on a list; see `unknown_name`."""
    if name not in known:
        raise unknown_name(kind, str(name), known, where)


def require_folder_name(name: str, option: str) -> None:
    """Refuse what is no relative path that stays within the folder it is joined to.

    Raises:
        BadInput: The name is empty, absolute, or has a part such as "..".
    """
    plain = not {"", ".", ".."} & set(name.split("/"))
    require(plain, "a plain folder name", repr(name), option)


def require_modules(
    modules: Sequence[str], package: str, purpose: str, *, where: str | Path | None = None, instead: str = ""
) -> None:
    """Refuse to go on without modules that a package or an extra brings; nothing of them is imported.

    Args:
        modules: Names of the modules.
        package: What to install for them: "cxr-data[dask]".
        purpose: What needs them, as the subject of a sentence.
        where: The file or option that asks for them.
        instead: What else may be done.

    Raises:
        BadInput: One is not installed; the message names it and the package.
    """
    import importlib.util

    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        do = f"pip install '{package}'" + (f", or {instead}" if instead else "")
        raise BadInput(f"{package}, which {purpose} needs", f"no {', '.join(missing)}", where=where, do=do)
