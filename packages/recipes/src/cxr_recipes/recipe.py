"""Read a recipe file and expand it into commands."""

import itertools
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cxr_data.errors import BadInput, require_known
from cxr_recipes import schema

ONE_REPORT = {"report": "the test images"}
"""What `evaluate` writes unless told otherwise."""


@dataclass(frozen=True)
class Recipe:
    """An experiment.

    Attributes:
        name: Its name.
        title: One line.
        about: What is done and why.
        data: Cohort it is run on when none is named.
        scales: Sizes of the experiment: name -> placeholder values for the stages.
        stages: Commands with ``{placeholders}``; ``for`` repeats one over lists of values.
        gains: Comparisons of the results page: title -> (with, without), models named without their seed.
        published: Values of the paper: report -> model -> metric -> value.
        published_gains: Gains of the paper: title -> metric -> percentage points.
        reports: Reports of the results page: folder within the run -> what it was evaluated on; the usual one when
            left out, none where nothing is evaluated.
        differs: Why our values may differ from the paper's.
        file: What it was read from, for messages.
    """

    name: str
    title: str
    about: str
    data: str
    scales: dict[str, dict[str, Any]]
    stages: tuple[dict[str, Any], ...]
    gains: dict[str, tuple[str, str]]
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    published_gains: dict[str, dict[str, float]] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=lambda: dict(ONE_REPORT))
    differs: str = ""
    file: str = ""

    def commands(self, scale: str, run: Path, data: str = "") -> list[list[list[str]]]:
        """The commands of one scale, as a shell would split them.

        Args:
            scale: A name in ``scales``.
            run: The run's folder.
            data: Cohort for every stage; the scale's or the recipe's own when empty.

        Returns:
            The stages in order; each holds the commands it is repeated as, which do not depend on one another.

        Raises:
            BadInput: Unknown scale, a placeholder or loop nobody fills, or a report that no stage writes.
        """
        require_known(f"scale of the recipe {self.name}", scale, self.scales, self.file)
        values = {**self.scales[scale], "run": str(run)}
        data = values["data"] = data or values.get("data", self.data)
        place = ["--run", run.name]
        if str(run.parent) != "runs":
            place += ["--runs_dir", str(run.parent)]
        stages = []
        for number, stage in enumerate(self.stages, 1):
            where = f"{self.file}, stage {number}, scale {scale}"
            commands = []
            loops = [_loop(names, of, values, where) for names, of in stage.get("for", {}).items()]
            for combination in itertools.product(*loops):
                chosen = {k: v for one in combination for k, v in one.items()}
                spread = _spread(stage["command"], chosen)
                words = [_fill(word, {**values, **chosen}, where) for word in spread.split()]
                if words[0] == "cxr-data":
                    commands.append(words)
                else:
                    own = _option("--data", words) is not None
                    commands.append([*words, *(place if own else ["--data", data, *place])])
            stages.append(commands)
        self._check_reports(stages, scale)
        return stages

    def _check_reports(self, stages: list[list[list[str]]], scale: str) -> None:
        """Refuse reports that no stage writes: else the results page would miss them, after hours."""
        evaluations = [command for stage in stages for command in stage if command[0] == "evaluate"]
        written = [_option("--name", command) or "report" for command in evaluations]
        for folder in self.reports:
            if folder not in written:
                do = f"name one of: {', '.join(written)}" if written else f"add the stage evaluate --name {folder}"
                where = f"{self.file}, reports, scale {scale}"
                raise BadInput("a report that a stage writes", repr(folder), where=where, do=do)


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def read(name: str) -> Recipe:
    """Read a recipe by name, or from a YAML file.

    Raises:
        BadInput: No such recipe, or a file that is none.
    """
    file: Any = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        require_known("recipe", name, names())
        file = _folder() / f"{name}.yaml"
    elif not file.is_file():
        raise BadInput("a recipe file", "nothing there", where=name)
    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that is none
        raise BadInput("a recipe in YAML, UTF-8", " ".join(str(error).split()), where=name) from error
    schema.check(values, name)
    stages = tuple({"command": stage} if isinstance(stage, str) else stage for stage in values["stages"])
    evaluates = any(stage["command"].split()[0] == "evaluate" for stage in stages)
    return Recipe(
        name=Path(name).stem,
        title=values["title"],
        about=values.get("about", ""),
        data=values.get("data", "phantom"),
        scales=values["scales"],
        stages=stages,
        gains={key: (pair[0], pair[1]) for key, pair in values.get("gains", {}).items()},
        published=values.get("published", {}),
        published_gains=values.get("published_gains", {}),
        reports=values.get("reports", ONE_REPORT if evaluates else {}),
        differs=values.get("differs", ""),
        file=name,
    )


def _folder() -> Any:
    return resources.files("cxr_recipes") / "recipes"


def _loop(names: str, of: Any, values: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """One dict per iteration: ``seed: [0, 1]``, ``seed: seeds`` (a list of the scale), ``a, b: [[1, 2], [3, 4]]``."""
    rounds = values.get(of, of) if isinstance(of, str) else of
    if not isinstance(rounds, list) or not (rounds or isinstance(of, str)):  # a scale may leave a loop out
        do = "write it out, such as [0, 1], or add it to the scale"
        raise BadInput(f"a list of values for {names}, or a scale's name for one", repr(rounds), where=where, do=do)
    keys = [name.strip() for name in names.split(",")]
    if len(keys) == 1:
        return [{keys[0]: one} for one in rounds]
    for one in rounds:
        if not isinstance(one, list) or len(one) != len(keys):
            do = "write one list per iteration: [[1, 2], [3, 4]]"
            raise BadInput(f"{len(keys)} values ({names}) in every iteration", repr(one), where=where, do=do)
    return [dict(zip(keys, one, strict=True)) for one in rounds]


def _spread(command: str, chosen: dict[str, Any]) -> str:
    """Substitute loop values that consist of several words."""
    for name, value in chosen.items():
        if isinstance(value, str) and " " in value:
            command = command.replace(f"{{{name}}}", value)
    return command


def _fill(word: str, values: dict[str, Any], where: str, within: tuple[str, ...] = ()) -> str:
    """Fill the placeholders of a word, recursively."""

    def value(braces: re.Match[str]) -> str:
        name = braces[1]
        if name not in values:
            do = f"known here: {', '.join(values)}"
            raise BadInput(f"a value for {braces[0]}", "none", where=where, do=do)
        found = values[name]
        if name in within:
            do = "give it a value of its own"
            raise BadInput(f"a value for {braces[0]} that does not need itself", repr(found), where=where, do=do)
        if isinstance(found, list | dict | None):
            do = "give it one value, or go through a list by: for"
            raise BadInput(f"one value for {braces[0]}", repr(found), where=where, do=do)
        return _fill(str(found), values, where, (*within, name))

    filled = re.sub(r"{([^{}]*)}", value, word)
    if "{" in filled or "}" in filled:
        raise BadInput("placeholders such as {run}", repr(word), where=where, do="open and close every brace")
    return filled


def _option(flag: str, words: list[str]) -> str | None:
    """The value of an option, ``--name x`` or ``--name=x``; None where it is not given."""
    for word, following in itertools.pairwise([*words, ""]):
        if word == flag:
            return following
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None
