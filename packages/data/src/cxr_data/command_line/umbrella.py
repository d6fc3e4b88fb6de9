"""The command ``cxr``: every command of the toolkit by one name, and completion for shells."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from cxr_data.errors import BadInput, require_known


class Command(NamedTuple):
    """A command.

    Attributes:
        main: Where it is: "module:function".
        config: Its options: "module:dataclass"; of a command with commands of its own the module.
        text: What it does, in a line.
        package: What has to be installed for it.
    """

    main: str
    config: str
    text: str
    package: str


COMMANDS = {
    "data": Command("cxr_data.cli:main", "cxr_data.config", "prepare, audit and count cohorts", "cxr-data"),
    "pretrain": Command(
        "cxr_ssl.cli:main", "cxr_ssl.config:PretrainConfig", "self-supervised pretraining, without labels", "cxr-ssl"
    ),
    "finetune": Command(
        "cxr_distill.cli:finetune", "cxr_distill.config:FinetuneConfig", "train a classifier on labels", "cxr-distill"
    ),
    "distill": Command(
        "cxr_distill.cli:distill", "cxr_distill.config:DistillConfig", "distil teachers into a student", "cxr-distill"
    ),
    "evaluate": Command(
        "cxr_eval.cli:main", "cxr_eval.config:EvaluateConfig", "compare classifiers in one report", "cxr-eval"
    ),
    "export": Command(
        "cxr_deploy.cli:export_model",
        "cxr_deploy.config:ExportConfig",
        "write ONNX in float32 and 8 bits, and a page for the browser",
        "cxr-deploy[export]",
    ),
    "predict": Command(
        "cxr_deploy.cli:predict", "cxr_deploy.config:PredictConfig", "classify new images", "cxr-deploy"
    ),
    "benchmark": Command(
        "cxr_deploy.cli:benchmark_model",
        "cxr_deploy.config:BenchmarkConfig",
        "time classifiers in every runtime and precision",
        "cxr-deploy",
    ),
    "push": Command(
        "cxr_deploy.cli:push",
        "cxr_deploy.config:PushConfig",
        "write a model as a Hub repository and upload it",
        "cxr-deploy",
    ),
    "runs": Command(
        "cxr_data.command_line.runs:main",
        "cxr_data.command_line.runs:RunsConfig",
        "list trainings and compare them",
        "cxr-data",
    ),
    "demo": Command(
        "cxr_deploy.cli:demo", "cxr_deploy.config:DemoConfig", "open a page that classifies radiographs", "cxr-deploy"
    ),
    "reproduce": Command(
        "cxr_recipes.cli:main", "cxr_recipes.config:ReproduceConfig", "run a whole experiment", "cxr-recipes"
    ),
}
"""Name -> command. A package that is not installed is named when its command is asked for."""
COMPLETION = "completion"
SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cxr``; returns the exit code."""
    from cxr_data.command_line.command import until_reader_leaves

    return until_reader_leaves(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    try:
        if name in ("-h", "--help", "help"):
            print(_overview(), end="")
            return 0
        if name == COMPLETION:
            from cxr_data.command_line.completion import completion

            print(completion(rest), end="")
            return 0
        if name not in COMMANDS and name in importlib.import_module("cxr_data.config").CONFIGS:
            raise BadInput("the name of a command", repr(name), do=f"it is a command of data: cxr data {name}")
        require_known("command", name, [*COMMANDS, COMPLETION])
        run = load(COMMANDS[name].main, name)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.argv = [f"cxr {name}", *rest]
    return int(run() or 0)


def load(place: str, name: str) -> Any:
    """What stands at "module:attribute", or the module of "module".

    Raises:
        BadInput: Its package is not installed.
    """
    module, _, attribute = place.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        package = COMMANDS[name].package
        raise BadInput(
            f"the package {package}, which has `cxr {name}`", "none installed", do=f"pip install '{package}'"
        ) from error
    return getattr(loaded, attribute) if attribute else loaded


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 3
    rows = {**{name: command.text for name, command in COMMANDS.items()}, COMPLETION: f"for {', '.join(SHELLS)}"}
    lines = [f"  {name:<{width}}{text}" for name, text in rows.items()]
    return "\n".join(["usage: cxr COMMAND ...", "", *lines, "", "`cxr COMMAND --help` lists its options.", ""])
