"""Read a recipe file and expand it into commands."""

import itertools
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from cxr_common.typed_files import Typed, refusal
from cxr_common.typed_files import read as read_typed
from cxr_data.errors import BadInput, require_known, unknown_name

COMMANDS = ("cxr-data", "ssl-pretrain", "finetune", "distill", "evaluate", "export-model")
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "accuracy": "accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
}
"""Metrics of the results page and their column titles."""
ONE_REPORT = {"report": "the test images"}
"""What `evaluate` writes unless told otherwise."""


def _known_metric(name: str) -> str:
    if name not in METRICS:
        raise refusal(unknown_name("metric", name, METRICS))
    return name


Values = dict[Annotated[str, AfterValidator(_known_metric)], float]
"""Metric -> a value that a paper published."""


class Stage(Typed):
    """A command, repeated over lists of values.

    Attributes:
        command: With ``{placeholders}``.
        loops: Placeholder -> list of its values, or the name of one in the scale; several with commas between them.
    """

    command: str
    loops: dict[str, Any] = Field({}, alias="for")

    @model_validator(mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        words = {"command": value} if isinstance(value, str) else value
        command = words.get("command") if isinstance(words, dict) else None
        if not isinstance(command, str) or not command.strip():
            do = "command: finetune --size 64"
            raise refusal(BadInput("a command, or a stage with one", repr(value), do=do))
        if command.split()[0] not in COMMANDS:
            raise refusal(unknown_name("command of a recipe", command.split()[0], COMMANDS))
        return words


class Recipe(Typed):
    """An experiment: the content of a recipe file.

    Attributes:
        title: One line.
        about: What is done and why.
        data: Cohort it is run on when none is named.
        scales: Sizes of the experiment: name -> placeholder values for the stages.
        stages: Commands, the one after the other.
        gains: Comparisons of the results page: title -> [with, without], models named without their seed.
        published: Values of the paper: report -> model -> metric -> value.
        published_gains: Gains of the paper: title -> metric -> percentage points.
        reports: Reports of the results page: folder within the run -> what it was evaluated on; the usual one when
            left out, none where nothing is evaluated.
        differs: Why our values may differ from the paper's.
    """

    title: str
    about: str = ""
    data: str = "phantom"
    scales: dict[str, dict[str, Any]] = Field(min_length=1)
    stages: list[Stage] = Field(min_length=1)
    gains: dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]] = Field({})
    published: dict[str, dict[str, Values]] = Field({})
    published_gains: dict[str, Values] = Field({})
    reports: dict[str, str] = Field(ONE_REPORT)
    differs: str = ""
    _file: str = ""

    @property
    def file(self) -> str:
        """What it was read from, for messages."""
        return self._file

    @property
    def name(self) -> str:
        """Its name, that of its file."""
        return Path(self._file).stem

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        evaluates = any(stage.command.split()[0] == "evaluate" for stage in self.stages)
        if "reports" not in self.model_fields_set and not evaluates:
            self.reports = {}
        try:
            for scale, values in self.scales.items():
                if not isinstance(values.get("data", ""), str):
                    raise BadInput(f"text as data of the scale {scale}", repr(values["data"]))
            for report in self.published:
                require_known("report of the recipe", report, self.reports)
            for gain in self.published_gains:
                require_known("gain of the recipe", gain, self.gains)
        except BadInput as error:
            raise refusal(error) from error
        return self

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
            loops = [_loop(names, of, values, where) for names, of in stage.loops.items()]
            for combination in itertools.product(*loops):
                chosen = {k: v for values_of in combination for k, v in values_of.items()}
                spread = _spread(stage.command, chosen)
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
    if not isinstance(values, dict):
        raise BadInput("a recipe with title, scales and stages", repr(values), where=name)
    recipe = read_typed(Recipe, values, name)
    recipe._file = name
    return recipe


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
        return [{keys[0]: value} for value in rounds]
    for value in rounds:
        if not isinstance(value, list) or len(value) != len(keys):
            do = "write one list per iteration: [[1, 2], [3, 4]]"
            raise BadInput(f"{len(keys)} values ({names}) in every iteration", repr(value), where=where, do=do)
    return [dict(zip(keys, value, strict=True)) for value in rounds]


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
        inserted = values[name]
        if name in within:
            do = "give it a value of its own"
            raise BadInput(f"a value for {braces[0]} that does not need itself", repr(inserted), where=where, do=do)
        if isinstance(inserted, list | dict | None):
            do = "give it one value, or go through a list by: for"
            raise BadInput(f"one value for {braces[0]}", repr(inserted), where=where, do=do)
        return _fill(str(inserted), values, where, (*within, name))

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
