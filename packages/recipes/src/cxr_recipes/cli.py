"""Command ``reproduce``; ``reproduce gpu-check`` is a command of its own."""

import sys

from cxr_data.command_line.command import run_command
from cxr_recipes.config import ReproduceConfig


def main() -> int:
    """Run a recipe, or the check of a GPU."""
    if sys.argv[1:2] == ["gpu-check"]:
        return gpu_check(sys.argv[2:])

    return run_command("cxr_recipes.runner:reproduce", ReproduceConfig, prog="reproduce", positional="recipes")


def gpu_check(argv: list[str]) -> int:
    """Check correctness and speed on the device there is."""
    from cxr_recipes.gpu_check.config import GpuCheckConfig

    return run_command("cxr_recipes.gpu_check.check:gpu_check", GpuCheckConfig, prog="reproduce gpu-check", argv=argv)
