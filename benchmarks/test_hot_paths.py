"""Hot paths that have no file of their own: Sinkhorn codes, convolutions over small maps, the answer for one image.

    uv run pytest benchmarks/test_hot_paths.py -m benchmark -n 0 -s

Run it on an idle machine. Networks have random weights: speed does not depend on what was learnt. Sinkhorn
must keep up with lightly's.
"""

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import nn

from cxr_common import checkpoint
from cxr_common.checkpoint import Header, Input
from cxr_common.models import cost
from cxr_common.models.small_maps import multiply_small_maps
from cxr_common.models.zoo import GrayNetwork, build
from cxr_data import timing
from cxr_data.files import sha256
from cxr_data.machine import cpu_has_bf16, cpu_has_vnni
from cxr_deploy.benchmark.entries import EAGER, entries
from cxr_deploy.export import onnx_file
from cxr_deploy.export.answer import Answering
from cxr_deploy.export.convert import convert
from cxr_ssl.codes import sinkhorn

TITLE = "Sinkhorn codes, convolutions over small maps and the answer for one image"
SCORES = [(16, 300), (256, 3000)]
"""Images and prototypes: a small run on a laptop, and the batch and prototypes of ``--preset paper-256``."""
EPSILON, ITERATIONS = 0.05, 3
WANTED_SINKHORN = 1.0

CONVOLUTIONS = [(512, 512, 3, 2), (256, 256, 3, 4), (2048, 512, 1, 2), (1024, 256, 1, 4)]
"""Channels in and out, kernel and edge of the map: the last two stages of a ResNet-18 and a ResNet-50 at 64 px."""
BATCH = 32

NETWORKS = ("resnet18", "resnet34", "resnet50", "mobilenetv2_100")
SIZE, LABELS, SECONDS = 224, 14, 6.0
FOLDED, FLOAT, INT8 = ("PyTorch folded, channels-last", "fp32"), ("ONNX Runtime", "fp32"), ("ONNX Runtime", "int8")
WAYS = (FOLDED, FLOAT, INT8)
OPENVINO = ("OpenVINO", "fp32"), ("OpenVINO", "int8")
WANTED = {
    "fp32": {"resnet34": 1.6},
    "int8": {"resnet18": 6.5, "resnet50": 7.0, "mobilenetv2_100": 8.0}
    if cpu_has_vnni()
    else {"resnet18": 4.5, "resnet50": 4.0},
}
"""Least ratios of the faster runtime, which `--runtime fastest` finds, to eager float32 PyTorch, one image."""
WANTED_SMALL_INT8 = 18.0 if cpu_has_vnni() else 10.0
"""Of an 8-bit ResNet-18 to a ResNet-50 in eager float32 PyTorch."""
WANTED_BYTES = 27.0
"""Most of the size of the float32 file that the 8-bit file may have, per cent."""


@pytest.mark.benchmark
@pytest.mark.parametrize(("channels", "outputs", "kernel", "edge"), CONVOLUTIONS)
def test_convolutions_over_small_maps_beside_pytorchs(channels, outputs, kernel, edge, medians, record) -> None:
    """One layer, in the arithmetic that training takes on this machine."""
    plain = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False)
    plain.to(memory_format=torch.channels_last)
    layers = {"plain": plain, "product": copy.deepcopy(plain)}
    multiply_small_maps(layers["product"])
    images = torch.randn(BATCH, channels, edge, edge).to(memory_format=torch.channels_last).requires_grad_()

    def step(layer: nn.Module, *, train: bool) -> None:
        with torch.autocast("cpu", enabled=cpu_has_bf16()), torch.set_grad_enabled(train):
            answer = layer(images)
        if train:
            answer.backward(answer.detach())

    ways = {
        (name, train): functools.partial(step, layer, train=train)
        for name, layer in layers.items()
        for train in (True, False)
    }
    seconds = medians(ways, rounds=10, warm_up=2)
    for train, what in ((True, "forward and backward"), (False, "forward alone")):
        record(
            f"{kernel} x {kernel} convolution of {channels} to {outputs} channels over {edge} x {edge} pixels, {what}",
            seconds["plain", train] / seconds["product", train],
            "x",
            peer="torch.nn.Conv2d, channels-last",
            least=1.0,
            detail=f"{1e3 * seconds['plain', train]:.2f} ms, ours {1e3 * seconds['product', train]:.2f} ms",
        )


@pytest.mark.benchmark
@pytest.mark.parametrize(("images", "prototypes"), SCORES)
def test_sinkhorn_beside_lightly(images, prototypes, medians, record) -> None:
    """The same codes from the same scores; ours check that no exponential which vanished counts."""
    generator = torch.Generator().manual_seed(0)
    embeddings = nn.functional.normalize(torch.randn(images, 128, generator=generator), dim=1)
    scores = embeddings @ nn.functional.normalize(torch.randn(128, prototypes, generator=generator), dim=0)
    codes = {
        "lightly": lambda: lightly_sinkhorn(scores, ITERATIONS, EPSILON),
        "ours": lambda: sinkhorn(scores, epsilon=EPSILON, iterations=ITERATIONS),
    }
    torch.testing.assert_close(codes["ours"](), codes["lightly"](), rtol=1e-3, atol=1e-6)
    seconds = medians(codes, rounds=50, warm_up=5)
    record(
        f"Sinkhorn codes of {images} images and {prototypes} prototypes, {ITERATIONS} iterations",
        seconds["lightly"] / seconds["ours"],
        "x",
        peer="lightly's sinkhorn, with plain exponentials",
        least=WANTED_SINKHORN,
        detail=", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items()),
    )


def model_file(architecture: str, folder: Path) -> Path:
    """A classifier whose normalisations do something, as trained ones do.

    Fresh ones pass everything on or nothing at all, and their biases are all zero: the exporter makes one constant of
    equal ones, and what refers to it stays float in the 8-bit file.
    """
    torch.manual_seed(0)
    network = build(architecture, LABELS, size=SIZE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.get_buffer("running_mean"), 0, 0.2)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    labels = tuple(f"label {i}" for i in range(LABELS))
    path = folder / architecture / "model.safetensors"
    header = Header("model", architecture, Input(SIZE, 0.5, 0.25), task="multilabel", labels=labels)
    checkpoint.save(path, network, header)
    return path


def export_beside(path: Path, in_8_bits: Callable[..., onnx.ModelProto]) -> dict[str, Path]:
    """Both ONNX files as ``export-model`` leaves them."""
    network, header = checkpoint.load(path, kind="model")
    assert isinstance(network, GrayNetwork)
    about = {"schema": 1, "precision": "fp32", "source": {"sha256": sha256(path)}}
    graph = convert(Answering(network, header), header)
    onnx_file.describe(graph, header, about)
    files = {"fp32": path.parent / "export" / "model.onnx", "int8": path.parent / "export" / "model.int8.onnx"}
    onnx_file.save(graph, files["fp32"])
    onnx_file.save(in_8_bits(graph, header, about), files["int8"])
    return files


def by_runtime(ms: dict[tuple[str, tuple[str, str]], float], name: str, precision: str) -> dict[str, float]:
    """Milliseconds of a network in each runtime that has this precision here."""
    ways = {runtime: (name, (runtime, precision)) for runtime in ("ONNX Runtime", "OpenVINO")}
    return {runtime: ms[way] for runtime, way in ways.items() if way in ms}


@pytest.mark.benchmark
@pytest.mark.timeout(1800)
def test_answer_for_one_image(tmp_path: Path, benchmark, product_rate, record, in_8_bits) -> None:
    """Every network in every runtime, all in turns in one process, so that networks can be compared as well."""
    torch.set_num_threads(1)
    paths = {name: model_file(name, tmp_path) for name in NETWORKS}
    files = {name: export_beside(path, in_8_bits) for name, path in paths.items()}
    rows, _ = entries(paths, tmp_path)
    rows = [row for row in rows if (row.runtime, row.precision) in (EAGER, *WAYS, *OPENVINO)]
    runs = {row.name: row.load(1) for row in rows}
    ways = {row.name: (runs[row.name], row.header.input.size) for row in rows}
    timed = benchmark.pedantic(timing.side_by_side, args=(ways, SECONDS))
    actual = {(row.model, (row.runtime, row.precision)): timed[row.name] for row in rows}
    ms = {key: figures["latency_ms_p50"] for key, figures in actual.items()}
    possible = product_rate()
    for name in NETWORKS:
        operations = 2 * cost.macs(checkpoint.load(paths[name])[0], SIZE)
        for way in WAYS:
            eager, ours = ms[name, EAGER], ms[name, way]
            rate, best = (actual[name, runtime]["images_per_second"] for runtime in (EAGER, way))
            shown = f"eager {eager:.1f} ms, {rate:.0f} images/s at best; this {ours:.1f} ms, {best:.0f} images/s"
            shown += f", {operations / ours / 1e6:.0f} GOP/s where a float32 product of matrices has {possible:.0f}"
            what = f"{name}, {SIZE} px, one image, one thread: {' '.join(way)}"
            record(what, eager / ours, "x", peer="the same in eager PyTorch, float32", detail=shown)
        for precision, bounds in WANTED.items():
            both = by_runtime(ms, name, precision)
            record(
                f"{name}, {SIZE} px, one image, one thread: {precision} in the faster runtime",
                ms[name, EAGER] / min(both.values()),
                "x",
                peer="the same in eager PyTorch, float32",
                least=bounds.get(name),
                detail=", ".join(f"{runtime} {one:.1f} ms" for runtime, one in both.items()),
            )
        size = {precision: file.stat().st_size for precision, file in files[name].items()}
        record(
            f"{name}: size of the 8-bit file",
            100 * size["int8"] / size["fp32"],
            "%",
            peer="of the float32 file",
            most=WANTED_BYTES,
            detail=f"float32 {size['fp32'] / 1e6:.1f} MB, 8 bits {size['int8'] / 1e6:.1f} MB",
        )
    eager, ours = ms["resnet50", EAGER], min(by_runtime(ms, "resnet18", "int8").values())
    record(
        f"resnet18, {SIZE} px, one image, one thread: 8 bits in the faster runtime, beside a larger network",
        eager / ours,
        "x",
        peer="resnet50 in eager PyTorch, float32",
        least=WANTED_SMALL_INT8,
        detail=f"resnet50 {eager:.1f} ms, resnet18 {ours:.1f} ms",
    )
