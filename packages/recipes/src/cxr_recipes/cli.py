"""Command ``reproduce``; ``reproduce gpu-check`` is a command of its own."""

import sys

from cxr_data.command_line.command import run_command
from cxr_recipes.config import ReproduceConfig


def main() -> int:
    """Run a recipe, or the check of a GPU."""
    if sys.argv[1:2] == ["gpu-check"]:
        return gpu_check(sys.argv[2:])

    def reproduce(config: ReproduceConfig) -> None:
        from cxr_recipes import runner

        runner.reproduce(config)

    description = "Run a whole experiment, stage by stage, as typed by hand; resumes where it stopped."
    return run_command(reproduce, ReproduceConfig, prog="reproduce", description=description, positional="recipes")


def gpu_check(argv: list[str]) -> int:
    """Check correctness and speed on the device there is."""
    from cxr_recipes.gpu_check.config import GpuCheckConfig

    def check(config: GpuCheckConfig) -> None:
        from cxr_recipes.gpu_check import check

        check.gpu_check(config)

    description = "Check correctness and speed on a GPU lent for minutes, then run a recipe; resumes where it was cut."
    return run_command(check, GpuCheckConfig, prog="reproduce gpu-check", description=description, argv=argv)
