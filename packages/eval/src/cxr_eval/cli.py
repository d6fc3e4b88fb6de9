"""The command ``evaluate``."""

from collections.abc import Sequence

from cxr_data.command_line.command import run_command
from cxr_eval.config import EvaluateConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``evaluate``; returns the exit code."""
    return run_command("cxr_eval.command:run", EvaluateConfig, prog="evaluate", argv=argv, positional="models")


if __name__ == "__main__":
    raise SystemExit(main())
