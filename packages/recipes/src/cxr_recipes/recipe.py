"""A recipe file, and the commands it stands for."""

import itertools
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cxr_common.errors import BadInput, unknown_name

COMMANDS = ("cxr-data", "ssl-pretrain", "finetune", "distill", "evaluate")
FIELDS = {"title", "about", "data", "scales", "stages", "reports", "gains", "published", "published_gains", "differs"}

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
        scales: Sizes of the experiment: name -> values for the placeholders of the stages.
        stages: Commands with ``{placeholders}``; ``for`` repeats one over lists of values.
        gains: Comparisons of the results page: what is gained -> (with, without), models named without seed.
        published: Values of the paper: report -> model -> metric -> value.
        published_gains: Gains of the paper: what is gained -> metric -> points (hundredths).
        reports: Reports of the results page: folder within the run -> what it was evaluated on.
        differs: Why our values may differ from the paper's.
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

    def commands(self, scale: str, run: Path, data: str = "") -> list[list[list[str]]]:
        """The commands of one scale, as a shell would split them.

        Args:
            scale: A name in ``scales``.
            run: The run's folder.
            data: Cohort for every stage; the scale's or the recipe's own when empty.

        Returns:
            The stages in order; each holds the commands it is repeated as, which do not depend on one another.

        Raises:
            BadInput: Unknown scale, or a placeholder nobody fills.
        """
        if scale not in self.scales:
            raise unknown_name(f"scale of the recipe {self.name}", scale, self.scales)
        values = {**self.scales[scale], "run": str(run)}
        data = values["data"] = data or values.get("data", self.data)
        place = ["--run", run.name]
        if str(run.parent) != "runs":
            place += ["--runs_dir", str(run.parent)]
        stages = []
        for stage in self.stages:
            commands = []
            loops = [_loop(names, of, values) for names, of in stage.get("for", {}).items()]
            for combination in itertools.product(*loops):
                chosen = {k: v for one in combination for k, v in one.items()}
                try:
                    words = [_fill(word, {**values, **chosen}) for word in _spread(stage["command"], chosen).split()]
                except KeyError as error:
                    raise BadInput(
                        f"a value for {{{error.args[0]}}}", f"none in scale {scale}", where=self.name
                    ) from error
                if words[0] == "cxr-data":
                    commands.append(words)
                else:
                    commands.append([*words, *(place if "--data" in words else ["--data", data, *place])])
            stages.append(commands)
        return stages


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml"))


def read(name: str) -> Recipe:
    """Read a recipe by name, or from a YAML file.

    Raises:
        BadInput: No such recipe, or a file that is none.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise BadInput("a recipe file", "nothing there", where=name)
        text, name = path.read_text("utf-8"), path.stem
    elif name in names():
        text = (_folder() / f"{name}.yaml").read_text("utf-8")
    else:
        raise unknown_name("recipe", name, names())
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput("a recipe in YAML", " ".join(str(error).split()), where=name) from error
    if not isinstance(values, dict) or not {"title", "scales", "stages"} <= values.keys() or values.keys() - FIELDS:
        raise BadInput("a recipe with title, scales and stages", f"the fields {_keys(values)}", where=name)
    stages = tuple({"command": s} if isinstance(s, str) else s for s in values["stages"])
    for stage in stages:
        if stage["command"].split()[0] not in COMMANDS:
            raise unknown_name("command of a recipe", stage["command"].split()[0], COMMANDS)
    return Recipe(
        name=name,
        title=values["title"],
        about=values.get("about", ""),
        data=values.get("data", "phantom"),
        scales=values["scales"],
        stages=stages,
        gains={key: (pair[0], pair[1]) for key, pair in values.get("gains", {}).items()},
        published=values.get("published", {}),
        published_gains=values.get("published_gains", {}),
        reports=values.get("reports", ONE_REPORT),
        differs=values.get("differs", ""),
    )


def _folder() -> Any:
    return resources.files("cxr_recipes") / "recipes"


def _loop(names: str, of: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict a round: ``seed: [0, 1]`` or ``seed: seeds`` (a list of the scale) or ``a, b: [[1, 2], [3, 4]]``."""
    rounds = values.get(of, of) if isinstance(of, str) else of
    keys = [name.strip() for name in names.split(",")]
    return [dict(zip(keys, one if len(keys) > 1 else [one], strict=True)) for one in rounds]


def _spread(command: str, chosen: dict[str, Any]) -> str:
    """The command with those values of its loops put in that are several words."""
    for name, value in chosen.items():
        if isinstance(value, str) and " " in value:
            command = command.replace(f"{{{name}}}", value)
    return command


def _fill(word: str, values: dict[str, Any]) -> str:
    """The word with its placeholders filled, also those within what filled them."""
    filled = word.format_map(values)
    return filled if filled == word else _fill(filled, values)


def _keys(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
