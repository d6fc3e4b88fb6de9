"""Build a command line from a frozen dataclass, and turn errors into exit codes."""

import dataclasses
import importlib
import io
import json
import os
import re
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from cxr_data.command_line import slurm
from cxr_data.command_line.help import help_text
from cxr_data.errors import BadInput, unknown_name
from cxr_data.files import OF_THE_PLACE, read_yaml

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null"}
"""What values of a type are called."""
C = TypeVar("C")

_AGAIN = "start the same command again: it resumes from what was saved, if anything was"


def run_command(
    main: Callable[[C], object] | str,
    config_class: type[C],
    *,
    prog: str,
    argv: Sequence[str] | None = None,
    positional: str | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Parse the command line into ``config_class``, run ``main``, and turn what happens into an exit code.

    Every field is a flag (``--batch_size 32``), a field of a dataclass within it a dotted one (``--optim.ema
    0.99``); ``--config FILE.yaml`` sets many at once, later flags win, ``--print_config`` prints what would
    run, ``--slurm`` a batch script that runs it. Help texts come from the class's docstring.

    Args:
        main: Called with the finished config; as "module:function" it is imported only then.
        config_class: Frozen dataclass with a default for every field.
        prog: Name of the command.
        argv: Arguments; those of the process when None.
        positional: A ``list[str]`` field that positional arguments fill.
        presets: Defaults by the name that the field ``preset`` may take, dots leading into nested configs.

    Returns:
        0 when ``main`` returned, 2 for bad input, 130 or 143 when interrupted or terminated. A fault of
        ours raises, so that Python prints the traceback and exits with 1.
    """
    prog = as_typed(prog) if argv is None else prog
    arguments = list(sys.argv[1:] if argv is None else argv)

    def run() -> int:
        if {"-h", "--help"} & set(arguments):
            defaults = (presets or {}).get(_preset(arguments), {})
            print(help_text(config_class, prog=prog, positional=positional, defaults=defaults), end="")
            return 0
        argv = [argument for argument in arguments if argument != "--slurm"]
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            config = parse(config_class, prog=prog, argv=argv, positional=positional, presets=presets)
            if "--slurm" in arguments:
                print(slurm.script([*prog.split(), *argv]), end="")
            else:
                module, _, function = main.partition(":") if isinstance(main, str) else ("", "", "")
                call: Any = getattr(importlib.import_module(module), function) if module else main
                call(config)
        except BadInput as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            if error.errno not in OF_THE_PLACE:
                raise
            found, do = error.strerror or str(error), "check the path, its permissions and the free space"
            where = f"{error.filename:.200}" if isinstance(error.filename, str) else None
            print(f"error: {BadInput('a place to read and write', found, where=where, do=do)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"interrupted; {_AGAIN}", file=sys.stderr)
            return 130
        except SystemExit as stopped:
            if stopped.code == 143:
                print(f"terminated; {_AGAIN}", file=sys.stderr)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
        return 0

    return until_reader_leaves(run)


def until_reader_leaves(run: Callable[[], int]) -> int:
    """Run a command, and end quietly where whatever reads its output (head, less) has left.

    Args:
        run: Gives the exit code.

    Returns:
        That, or 141.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # A terminal of Latin-1, or of Windows, has no letter for some labels, and text none for some names of files.
        sys.stdout.reconfigure(errors="replace")
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def as_typed(prog: str) -> str:
    """The command's name as it was typed: ``cxr predict`` where ``cxr`` started it, else its own."""
    return sys.argv[0] if sys.argv[0].startswith("cxr ") else prog


def parse(
    config_class: type[C],
    *,
    prog: str,
    argv: Sequence[str] | None = None,
    positional: str | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> C:
    """Build the config from a command line.

    Raises:
        BadInput: An argument cannot be parsed, or its value is refused by the config's own checks.
        SystemExit: ``--print_config`` (code 0).
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    arguments = _familiar(list(sys.argv[1:] if argv is None else argv), config_class, positional)
    _check_files(arguments, config_class)
    # No abbreviations: a flag that works today must not become ambiguous when a field is added.
    parser = ArgumentParser(prog=prog, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file with any of the fields below")
    if positional is not None:
        parser.add_argument(positional, type=str, nargs="*", default=[], help="any number of them")
    skip: set[str | int] = {positional} if positional else set()
    parser.add_class_arguments(config_class, fail_untyped=True, skip=skip)
    if presets:
        parser.set_defaults(dict(presets.get(_preset(arguments), {})))
    try:
        parsed = parser.parse_args(_with_entries(arguments, config_class, parser))
    except (ArgumentError, UnicodeDecodeError) as error:
        raise _refused(" ".join(str(getattr(error, "message", error)).split()), f"see {prog} --help") from error
    return _made(config_class, parsed)


def _refused(message: str, do: str) -> BadInput:
    """The error for what jsonargparse refuses; a value of another type in our own words."""
    option, kinds = re.match(r'Parser key "([\w.]+)"', message), re.findall(r"Expected an? <class '(\w+)'>", message)
    values = re.findall(r"(?:Given|Got) value: (.*)", message.rpartition("Given value type")[2])
    listed = [" or ".join(re.findall(r"'([^']+)'", names)) for names in re.findall(r"Literal\[(.*?)\]", message)]
    known = [*(_KINDS[kind] for kind in dict.fromkeys(kinds) if kind in _KINDS), *listed]
    if option and values and known:
        return BadInput(" or ".join(known), values[0], where=f"--{option[1]}", do=do)
    return BadInput("arguments the command knows", message, do=do)


def _with_entries(arguments: list[str], config_class: type, parser: Any) -> list[str]:
    """Merge single entries of dicts ("--loss.kd=0.9") into what a YAML file says of the dict; keys may have dots."""
    dicts = [name for name, kind in _fields(config_class).items() if get_origin(kind) is dict]
    prefixes = tuple(f"--{name}." for name in dicts)
    entries = [token for token in arguments if token.startswith(prefixes)]
    if not entries:
        return arguments
    import yaml

    others = [token for token in arguments if not token.startswith(prefixes)]
    given = parser.parse_args([token for token in others if not token.startswith("--print_config")])
    merged = {name: dict(given[name]) for name in dicts}
    for token in entries:
        flag, _, value = token.partition("=")
        name, _, key = flag[2:].partition(".")
        try:
            merged[name][key] = yaml.safe_load(value)
        except yaml.YAMLError:
            merged[name][key] = value
    changed = {token[2:].partition(".")[0] for token in entries}
    return [*others, *(f"--{name}={json.dumps(merged[name])}" for name in sorted(changed))]


_SYNONYMS = {
    "lr": ("learning_rate", "learningrate", "lrate", "max_lr"),
    "epochs": ("epoch", "num_epochs", "n_epochs", "max_epochs"),
    "batch_size": ("batch", "bs", "batchsize"),
    "architecture": ("model", "arch", "backbone", "network"),
    "size": ("image_size", "img_size", "resolution", "input_size"),
    "out": ("output", "out_dir", "output_dir"),
    "data": ("dataset", "data_dir", "cohort"),
    "workers": ("num_workers", "threads"),
    "runs_dir": ("run_dir", "runs"),
    "weight_decay": ("wd", "l2"),
    "loss": ("temperature", "alpha", "beta"),
    "cached_views": ("teacher_views",),
    "augment": ("crop", "augmentation"),
    "projection": ("view", "views", "position"),
    "resamples": ("bootstrap", "n_bootstrap"),
}
"""Our name of an option -> what else it is commonly called."""


def _unknown_option(name: str, fields: Mapping[str, Any], where: str | Path | None = None) -> BadInput:
    """The error for an option that there is not, with the one that may be meant."""
    typed = name.lower().replace("-", "_")
    for ours, others in _SYNONYMS.items():
        if typed in others and ours in fields:
            return BadInput("the name of a known option", repr(name), where=where, do=f"did you mean {ours}?")
    nested = [outer for outer, kind in fields.items() if dataclasses.is_dataclass(kind) and typed in _fields(kind)]
    if nested:
        do = f"did you mean {' or '.join(f'{outer}.{typed}' for outer in nested)}?"
        return BadInput("the name of a known option", repr(name), where=where, do=do)
    return unknown_name("option", name, fields, where)


def _check_files(arguments: Sequence[str], config_class: type) -> None:
    """Check the names in the YAML files of ``--config``; what else is wrong with a file the parser says.

    Raises:
        BadInput: A name that is no field, with the one that may be meant.
    """
    for place, token in enumerate(arguments):
        flag, _, value = token.partition("=")
        file = value or (arguments[place + 1] if place + 1 < len(arguments) else "")
        if flag != "--config" or not Path(file).is_file():
            continue
        _check_names(read_yaml(file), config_class, file, "")


def _check_names(values: Mapping[Any, Any], config_class: type, file: str, prefix: str) -> None:
    fields = _fields(config_class)
    for key, value in values.items():
        name, _, inner = str(key).partition(".")
        if name not in fields:
            known = {prefix + field: None for field in fields}
            raise _unknown_option(prefix + name, known if prefix else fields, file)
        kind = fields[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            nested = {inner: value} if inner else value
            if isinstance(nested, dict):
                _check_names(nested, kind, file, f"{name}.")


def _preset(arguments: Sequence[str]) -> str:
    """The preset that the arguments or their YAML file name; empty where none, as for a file that cannot be read."""
    import argparse

    looking = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    looking.add_argument("--preset")
    looking.add_argument("--config")
    try:
        options, _ = looking.parse_known_args(arguments)
    except argparse.ArgumentError:  # a flag without its value: the parser proper says so
        return ""
    if options.preset is not None or options.config is None or not Path(options.config).is_file():
        return options.preset or ""
    return str(read_yaml(options.config).get("preset") or "")


def _made(config_class: type[C], parsed: Any) -> C:
    """The dataclass of what was parsed, with the dataclasses within it."""
    values = {}
    for name, kind in _fields(config_class).items():
        inner = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        values[name] = _made(kind, parsed[name]) if inner else parsed[name]
    return config_class(**values)


def _familiar(arguments: list[str], config_class: type, positional: str | None = None) -> list[str]:
    """Let people type what they would expect.

    ``--restart`` for true, ``--loss kd=0.9`` for one entry of a dict, ``--teacher A B`` for a list, which is a plain
    word where one will do (``list[str] | str``), ``--teacher+ C`` for one more, ``--seeds 0,1,2`` for numbers, and
    ``--paths A B`` for what needs no option.
    """
    fields = _fields(config_class)
    translated: list[str] = []
    words: list[str] = []
    lists: dict[str, tuple[int, list[str]]] = {}  # option -> where its list stands in `translated`, and what is in it
    position = 0
    while position < len(arguments):
        token = arguments[position]
        position += 1
        flag, _, value = token.partition("=")
        name = flag[2:].removesuffix("+").split(".")[0]
        if not flag.startswith("--") or not name or name in ("help", "config", "print_config"):
            translated.append(token)
            continue
        if name not in fields:
            if name.replace("-", "_") in fields:
                raise BadInput("options written with underscores", flag, do=f"--{name.replace('-', '_')}")
            raise _unknown_option(name, fields)
        kind, inner = fields[name], flag[2:].partition(".")[2]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and inner:
            known = {f"{name}.{field}": type_ for field, type_ in _fields(kind).items()}
            if flag[2:] not in known:
                raise unknown_name("option", flag[2:], known)
            kind = known[flag[2:]]
        following = arguments[position] if position < len(arguments) else None
        is_value = following is not None and not following.startswith("--")
        one_or_many = isinstance(kind, types.UnionType) and any(get_origin(part) is list for part in kind.__args__)
        origin = list if one_or_many else get_origin(kind)
        if kind is bool and not value and not (is_value and following in ("true", "false")):
            translated.append(f"{flag}=true")
        elif origin is list and (value or is_value):
            listed = [value] if value else []
            while not value and position < len(arguments) and not arguments[position].startswith("--"):
                listed.append(arguments[position])
                position += 1
            if name == positional:
                words += listed
                continue
            if flag.endswith("+"):
                flag = flag[:-1]
                listed = [*lists.get(flag, (0, []))[1], *listed]
            if flag in lists:
                translated.pop(lists[flag][0])
                lists = {other: (at - (at > lists[flag][0]), held) for other, (at, held) in lists.items()}
            lists[flag] = (len(translated), listed)
            if listed[0].startswith("[") or (one_or_many and len(listed) == 1):
                translated.append(f"{flag}={listed[0]}")
            elif get_args(kind) in ((int,), (float,)):
                translated.append(f"{flag}=[{','.join(listed)}]")
            else:
                translated.append(f"{flag}={json.dumps(listed)}")
        elif origin is dict and "." not in flag and "=" in (value or following or ""):
            key, _, number = (value or str(following)).partition("=")
            position += 0 if value else 1
            translated.append(f"{flag}.{key}={number}")
        else:
            translated.append(token)
    return [*translated, *words]


def _fields(config_class: Any) -> dict[str, Any]:
    return {f.name: f.type for f in dataclasses.fields(config_class)}


def config_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON types: paths and tuples become strings and lists."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_dict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _terminate(signum: int, _frame: object) -> None:
    # Loops that can save mid-way install their own handler; elsewhere stop at once, whole files only.
    raise SystemExit(128 + signum)
