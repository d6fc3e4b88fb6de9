"""Time and memory of what runs over all images, against their number: no step may grow faster than the data.

    uv run pytest benchmarks/test_cost_against_size.py -m benchmark -n 0 -s
    CXR_SIZES=1000,10000,100000 uv run pytest benchmarks/test_cost_against_size.py -m benchmark -n 0 -s

Times are those of the processor, of a process of its own for each step and size; what an empty process takes is taken
off. The exponent b of time = a x size^b is fitted to the logarithms.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

TITLE = "Cost against size"
SIZES = tuple(int(size) for size in os.environ.get("CXR_SIZES", "1000,10000").split(","))
MOST = 1.1
"""Largest exponent of the processor time."""
MOST_MEMORY = 2.0
"""Most that memory may grow over tenfold data: what is kept per image are rows of tables, never pixels."""
END = """
from cxr_data.machine import peak_memory
print()
print(json.dumps({"seconds": time.process_time() - start, "gib": peak_memory() / 2**30}))
"""
STEPS = {
    "index": """
import json, sys, time
from pathlib import Path
from cxr_data.preparation.image_files import find_images
start = time.process_time()
find_images(Path(sys.argv[1], "images"))
""",
    "prepare": """
import json, sys, time
from cxr_data import cli
start = time.process_time()
cli.main(["prepare", sys.argv[1] + "/images", "--reader", "folder", "--size", "32", "--out", sys.argv[1] + "/cohort"])
""",
    "audit": """
import json, sys, time
from cxr_data import cli
start = time.process_time()
cli.main(["audit", sys.argv[1] + "/cohort", "--out", sys.argv[1] + "/audit"])
""",
    "cached features of an encoder": """
import json, os, sys, time
from pathlib import Path
import torch
from cxr_common.checkpoint import Header, Input, save
from cxr_common.models.zoo import build
from cxr_data import open_cohort
from cxr_data.augment import training_views
from cxr_distill.cached_outputs import cache_outputs
from cxr_distill.teacher import load_encoder
folder = Path(sys.argv[1])
os.environ["CXR_CACHE"] = str(folder / "cache")
weights = folder / "encoder.safetensors"
save(weights, build("test_resnet", 0, size=64), Header("backbone", "test_resnet", Input(64, 0.5, 0.2)))
encoder, cohort = load_encoder(str(weights), ["pooled"], mean=0.5, std=0.2), open_cohort(str(folder / "cohort"))
start = time.process_time()
rows = cohort.rows("train")
cache_outputs(encoder, cohort, rows, training_views("mild", 64), 1, precision=torch.float32, workers=1)
""",
    "evaluate: figures and intervals": """
import json, sys, time
import numpy as np
from cxr_eval import results
from cxr_eval.predictions import Answers
images = int(sys.argv[2])
rng = np.random.default_rng(0)
patient = rng.integers(0, images // 4, images)
targets = (rng.random((images, 4)) < 0.2).astype(np.float32)
p = 1 / (1 + np.exp(-(targets + rng.normal(size=targets.shape) - 2)))
start = time.process_time()
number, weights = results.draws_of(patient, 500, 0)
labels = [f"finding {i}" for i in range(4)]
results.measure("multilabel", labels, targets, {"model": Answers(p, p >= 0.3, p, 1.0)}, number, weights)
""",
}


def write_images(folder: Path, count: int) -> None:
    """PNG files of two classes: coarse pictures with noise, drawn one by one, so that no two look alike."""
    rng = np.random.default_rng(0)
    for name in ("normal", "pneumonia"):
        (folder / "images" / name).mkdir(parents=True)
    for i in range(count):
        coarse = cv2.resize(rng.uniform(30, 220, (12, 12)).astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
        noisy = coarse + rng.uniform(-12, 12, (64, 64))
        place = folder / "images" / ("normal", "pneumonia")[i % 2] / f"patient{i // 2:06}_{i % 2}.png"
        cv2.imwrite(str(place), noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.benchmark
@pytest.mark.timeout(3600)
def test_no_step_grows_faster_than_the_data(tmp_path: Path, benchmark, own_process: Callable[..., str], record) -> None:
    actual: dict[str, list[dict[str, float]]] = {name: [] for name in STEPS}

    def all_steps() -> None:
        for size in SIZES:
            folder = tmp_path / str(size)
            write_images(folder, size)
            for name, code in STEPS.items():
                printed = own_process(code + END, str(folder), str(size))
                actual[name].append(json.loads(printed.strip().splitlines()[-1]))

    benchmark.pedantic(all_steps)
    for name, runs in actual.items():
        seconds = np.array([max(run["seconds"], 1e-3) for run in runs])
        exponent = float(np.polyfit(np.log(SIZES), np.log(seconds), 1)[0])
        shown = ", ".join(f"{size:,}: {one:.2f} s" for size, one in zip(SIZES, seconds, strict=True))
        record(f"{name}: exponent of the time", exponent, "", most=MOST, detail=f"images: {shown}")
        growth = (runs[-1]["gib"] / runs[0]["gib"]) ** (1 / np.log10(SIZES[-1] / SIZES[0]))
        memory = ", ".join(f"{run['gib']:.2f} GiB" for run in runs)
        record(f"{name}: memory over tenfold data", growth, "x", most=MOST_MEMORY, detail=memory)
