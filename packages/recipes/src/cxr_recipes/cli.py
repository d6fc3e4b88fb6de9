"""Command ``reproduce``."""

from cxr_data.command import run_command
from cxr_recipes.config import ReproduceConfig


def main() -> int:
    """Run a recipe."""

    def reproduce(config: ReproduceConfig) -> None:
        from cxr_recipes import runner

        runner.reproduce(config)

    description = "Run a whole experiment, stage by stage, as typed by hand; resumes where it stopped."
    return run_command(reproduce, ReproduceConfig, prog="reproduce", description=description, positional="recipes")
