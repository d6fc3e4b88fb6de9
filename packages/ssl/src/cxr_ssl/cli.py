"""Command ``ssl-pretrain``."""

from cxr_data.command_line.command import run_command
from cxr_ssl.config import PRESETS, PretrainConfig


def main() -> int:
    """Pretrain a backbone without labels."""
    return run_command("cxr_ssl.train:pretrain", PretrainConfig, prog="ssl-pretrain", presets=PRESETS)


if __name__ == "__main__":
    raise SystemExit(main())
