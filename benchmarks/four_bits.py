"""Size and AUROC of models whose weights are stored in 8 and 4 bits, while their arithmetic stays float32.

``python benchmarks/four_bits.py MODEL.safetensors... --data COHORT [--write]``

Weights of convolutions and linear layers are rounded to the nearest of 2^bits - 1 symmetric levels, with one float16
scale for each output channel, or for each group of 32 weights of one; all else stays in float32. AUROC is the macro
average on validation images. Models that differ in their seed alone (NAME-seed0) are one row.
``--write`` puts the table into docs/deployment.md.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cxr_common import checkpoint
from cxr_common.gain import over_seeds
from cxr_common.inference import outputs
from cxr_data import open_cohort, pixel_size_for
from cxr_data.models.decisions import probabilities
from cxr_data.models.metrics import auroc, macro

WAYS = {
    "8 bits, a scale per channel": (8, None),
    "4 bits, a scale per channel": (4, None),
    "4 bits, a scale per 32 weights": (4, 32),
}
PAGE = Path(__file__).parent.parent / "docs" / "deployment.md"
BEGIN, END = "<!-- four bits: begin -->", "<!-- four bits: end -->"


def rounded(weight: Tensor, bits: int, group: int | None) -> tuple[Tensor, float]:
    """A weight on its grid, and the bytes it takes there.

    Args:
        weight: Float (O, ...), O output channels.
        bits: Bits of a weight.
        group: Weights that share a scale; None for all of a channel.
    """
    rows = weight.flatten(1)
    width = rows.shape[1] if group is None else min(group, rows.shape[1])
    padded = nn.functional.pad(rows, (0, -rows.shape[1] % width)).view(-1, width)
    scale = (padded.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).half().float().clamp(min=1e-7)
    limit = 2 ** (bits - 1) - 1
    actual = (padded / scale).round().clamp(-limit, limit) * scale
    actual = actual.view(len(rows), -1)[:, : rows.shape[1]].reshape(weight.shape)
    return actual, weight.numel() * bits / 8 + 2 * len(padded)


def stored(network: nn.Module, bits: int, group: int | None) -> float:
    """Round the weights of a network in place; the bytes of all its parameters and buffers then."""
    taken = float(sum(4 * x.numel() for x in network.state_dict().values() if x.is_floating_point()))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            actual, size = rounded(module.weight.data, bits, group)
            module.weight.data.copy_(actual)
            taken += size - 4 * module.weight.numel()
    return taken


def measured(file: Path, data: str) -> dict[str, tuple[float, float]]:
    """Megabytes and validation AUROC of a model by way of storing it."""
    actual = {}
    for way, how in {"float32": None, **WAYS}.items():
        network, header = checkpoint.load(file, kind="model")
        size = sum(4 * x.numel() for x in network.state_dict().values() if x.is_floating_point())
        size = stored(network, *how) if how else float(size)
        cohort = open_cohort(data, pixel_size=pixel_size_for(header.input.size), seed=0)
        rows = cohort.rows("val")
        logits = outputs(network, cohort.pixels, rows, header.input.size)
        actual[way] = size / 1e6, macro(auroc(cohort.targets[rows], probabilities(logits, str(header.task))))
    return actual


def table(files: list[Path], data: str) -> str:
    """One row for each network and way, over its seeds."""
    groups: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for file in files:
        groups.setdefault(re.sub(r"-seed\d+$", "", file.parent.name), []).append(measured(file, data))
    lines = [
        "| model | seeds | weights | MB | validation AUROC | change in percentage points |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in groups.items():
        for way in each[0]:
            values = [one[way][1] for one in each]
            changes = [100 * (one[way][1] - one["float32"][1]) for one in each]
            change = f"{np.mean(changes):+.2f}"
            if len(changes) > 1:
                mean, half = over_seeds(changes)
                change = f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
            change = "–" if way == "float32" else change
            lines.append(f"| {name} | {len(each)} | {way} | {each[0][way][0]:.1f} | {np.mean(values):.4f} | {change} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write it into the page if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    made = table(arguments.models, arguments.data)
    print(made)
    if arguments.write:
        text = PAGE.read_text("utf-8")
        pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.S)
        PAGE.write_text(pattern.sub(lambda _: f"{BEGIN}\n{made}\n{END}", text), "utf-8")


if __name__ == "__main__":
    main()
