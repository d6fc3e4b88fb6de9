"""Command ``ssl-pretrain``."""

from cxr_data.command_line.command import run_command
from cxr_ssl.config import PRESETS, PretrainConfig


def main() -> int:
    """Pretrain a backbone without labels."""

    def pretrain(config: PretrainConfig) -> None:
        from cxr_ssl.train import pretrain

        pretrain(config)

    description = "Pretrain a backbone on chest radiographs without labels, with SwAV, DINO or BYOL."
    return run_command(pretrain, PretrainConfig, prog="ssl-pretrain", description=description, presets=PRESETS)


if __name__ == "__main__":
    raise SystemExit(main())
