"""The text of ``--help``, made from a config class without importing anything slow."""

import dataclasses
import inspect
import re
import shutil
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

INDENT = 24


def help_text(
    config_class: type,
    *,
    prog: str,
    positional: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    width: int | None = None,
) -> str:
    """The help of a command whose options are the fields of a dataclass.

    Args:
        config_class: Dataclass whose docstring says what the command does and has a section "Attributes:", with a
            default for every field.
        prog: Name of the command.
        positional: A ``list[str]`` field that positional arguments fill.
        defaults: Defaults other than the class's own, by dotted name.
        width: Columns; those of the terminal when None.

    Returns:
        Usage, description, and a paragraph for each option: what it does, its choices and default.
    """
    width = width or min(120, shutil.get_terminal_size().columns)
    usage = f"usage: {prog} [OPTIONS]" + (f" [{positional.upper()} ...]" if positional else "")
    lines = [usage, "", *textwrap.wrap(" ".join(paragraphs(config_class)), width), ""]
    documented = list(options(config_class))
    if positional:
        text = next(option.text for option in documented if option.name == positional)
        lines += ["arguments:", *_paragraph(positional.upper(), text, width), ""]
    lines += [
        "options:",
        *_paragraph("--help", "Show this and exit.", width),
        *_paragraph("--config FILE", "A YAML file with any of the fields below; options after it win.", width),
        *_paragraph("--print_config", "Print the configuration that would run, as YAML, and exit.", width),
        *_paragraph("--slurm", "Print a script for sbatch that runs this command, and exit.", width),
    ]
    for option in documented:
        if option.name != positional:
            default = (defaults or {}).get(option.name, option.default)
            noted = [text for text in (option.choices, _default(default)) if text]
            text = option.text + (f" ({'; '.join(noted)})" if noted else "")
            lines += _paragraph(f"--{option.name} {option.metavar}".rstrip(), text, width)
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Without dashes; a dot leads into a nested config.
        text: What it does.
        default: Its value where it is not given.
        metavar: What stands for its value; empty for a switch.
        choices: Its values, as text; empty where any will do.
    """

    name: str
    text: str
    default: Any
    metavar: str
    choices: str


def options(config_class: type, prefix: str = "") -> Iterator[Option]:
    """Every option of a config class, those of nested dataclasses after a dot."""
    texts = attributes(config_class)
    for field in dataclasses.fields(config_class):
        name = prefix + field.name
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from options(field.type, f"{name}.")
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        metavar, choices = _values(field.type)
        yield Option(name, texts.get(field.name, ""), default, metavar, choices)


def paragraphs(config_class: type) -> list[str]:
    """What a class's docstring says before its sections, each paragraph on one line."""
    said = re.split(r"\n(?=[A-Z]\w+:\n)", inspect.cleandoc(config_class.__doc__ or ""))[0].strip()
    return [" ".join(text.split()) for text in said.split("\n\n")]


def attributes(config_class: type) -> dict[str, str]:
    """The "Attributes:" sections of a class and those it inherits from: name -> text, on one line."""
    texts: dict[str, str] = {}
    for kind in reversed(config_class.__mro__):
        _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    return texts


def _values(kind: Any) -> tuple[str, str]:
    """(What stands for a value of this type, the values it may have)."""
    if kind is bool:
        return "", "true or false"
    if get_origin(kind) is Literal:
        return "VALUE", "one of " + ", ".join(map(str, get_args(kind)))
    parts = [part for part in get_args(kind) if part is not types.NoneType] if isinstance(kind, types.UnionType) else []
    if any(get_origin(part) is list for part in [kind, *parts]):
        return "VALUE ...", ""
    if get_origin(kind) is dict or any(get_origin(part) is dict for part in parts):
        return "NAME=VALUE", ""
    plain = parts[0] if parts else kind
    return {int: "N", float: "X"}.get(plain, "VALUE"), ""


def _default(value: Any) -> str:
    """A default as text; empty where none or nothing is the default, which the option's own text explains."""
    if value is None or value == "" or value == [] or value == {} or value == ():
        return ""
    if isinstance(value, bool):
        return f"default: {str(value).lower()}"
    if isinstance(value, dict):
        return "default: " + " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "default: " + " ".join(map(str, value))
    return f"default: {value}"


def _paragraph(name: str, text: str, width: int) -> list[str]:
    """An option's name and text, the text indented, beside the name where that is short."""
    body = textwrap.wrap(text, max(20, width - INDENT)) or [""]
    head = f"  {name}"
    if len(head) + 2 > INDENT:
        return [head, *(" " * INDENT + line for line in body)]
    return [head.ljust(INDENT) + body[0], *(" " * INDENT + line for line in body[1:])]
