from dataclasses import dataclass, field
from typing import Literal

from cxr_data.command_line.help import attributes, help_text, options


@dataclass(frozen=True)
class Inner:
    """Within.

    Attributes:
        depth: Of it.
    """

    depth: int = 1


@dataclass(frozen=True)
class Config:
    """Looks.

    At each file, long and often.

    Attributes:
        models: Files to look at.
        size: Edge in pixels, which is a text that
            goes on in a second line: with a colon.
        lr: Learning rate; chosen by the size when it is not given.
        kind: What kind.
        loss: Weights.
        fast: Whether to hurry.
        inner: What is within.
    """

    models: list[str] = field(default_factory=list)
    size: int = 64
    lr: float | None = None
    kind: Literal["a", "b"] = "a"
    loss: dict[str, float] = field(default_factory=lambda: {"kd": 1.0})
    fast: bool = False
    inner: Inner = field(default_factory=Inner)


def test_texts_are_those_of_the_docstring():
    assert list(attributes(Config)) == ["models", "size", "lr", "kind", "loss", "fast", "inner"]
    assert attributes(Config)["size"] == "Edge in pixels, which is a text that goes on in a second line: with a colon."


def test_every_option_stands_there_with_its_default():
    text = help_text(Config, prog="look", positional="models", width=60)
    assert text.startswith("usage: look [OPTIONS] [MODELS ...]\n\nLooks. At each file, long and often.\n")
    assert "  MODELS                Files to look at." in text
    assert "--models" not in text
    lines = " ".join(text.split())
    assert "--size N Edge in pixels" in lines
    assert "with a colon. (default: 64)" in lines
    assert "--lr X Learning rate; chosen by the size when it is not given. --kind" in lines
    assert "--kind VALUE What kind. (one of a, b; default: a)" in lines
    assert "--loss NAME=VALUE Weights. (default: kd=1.0)" in lines
    assert "--fast Whether to hurry. (true or false; default: false)" in lines
    assert "--inner.depth N Of it. (default: 1)" in lines
    assert max(map(len, text.splitlines())) <= 60


def test_other_defaults_are_shown():
    text = help_text(Config, prog="look", defaults={"inner.depth": 7, "size": 8})
    assert "(default: 7)" in text
    assert "(default: 8)" in text


def test_options_of_nested_configs_have_dots():
    assert [option.name for option in options(Config)][-1] == "inner.depth"


@dataclass(frozen=True)
class _Base:
    """A base.

    Attributes:
        shared: Text of the base,
            on two lines.
        changed: Text of the base.
    """

    shared: int = 1
    changed: int = 2


@dataclass(frozen=True)
class _Derived(_Base):
    """A command.

    Attributes:
        changed: Text of the command.
        own: Text of its own.
    """

    own: int = 3


def test_options_of_base_classes_keep_their_texts():
    assert attributes(_Derived) == {
        "shared": "Text of the base, on two lines.",
        "changed": "Text of the command.",
        "own": "Text of its own.",
    }
