"""One thread, and a training state small enough to follow."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_ssl.config import PretrainConfig
from cxr_ssl.plan import make_plan
from cxr_ssl.state import TrainState


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for one another make tiny networks slow on busy machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class TinyBackbone(nn.Module):
    """A backbone with batch statistics, small enough to follow."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 12, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(12)

    @property
    def network(self) -> "TinyBackbone":
        """As `GrayNetwork` holds one."""
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.convolution(pixels.float() / 255)).relu().mean((2, 3))


class OneProcess:
    """What a training needs of an accelerator, for one process on a CPU; with a scaler as for fp16."""

    process_index, num_processes, is_main_process, device = 0, 1, True, torch.device("cpu")
    autocast = staticmethod(contextlib.nullcontext)

    def __init__(self, scale: float | None = None) -> None:
        self.scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
        self.without_exchange = 0

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def backward(self, loss: Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    @contextlib.contextmanager
    def no_sync(self, _model: nn.Module) -> Iterator[None]:
        self.without_exchange += 1
        yield


class Scaled:
    """Unscales before it steps, as accelerate's optimiser does."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.zero_grad = optimizer.zero_grad
        self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


@pytest.fixture
def new_state() -> Callable[..., TrainState]:
    """Makes a state of 12 images a step: (config, scale of fp16, optimiser of parameters) -> state."""

    def made(config: PretrainConfig, scale: float | None = None, **sgd: Any) -> TrainState:
        torch.manual_seed(0)
        plan = make_plan(PretrainConfig(batch_size=12, epochs=2), 120)
        options, backbone, accelerator = config.method_options, TinyBackbone(), OneProcess(scale)
        method = options.build(backbone, options.settings(120, plan), plan, coded_crops=2)  # type: ignore[arg-type]
        method.start(accelerator.device, 12)
        trained = [one for one in method.module.parameters() if one.requires_grad]
        optimizer: Any = torch.optim.SGD(trained, **sgd) if sgd else torch.optim.AdamW(trained, lr=1e-3)
        return TrainState(
            network=method.module.train(),
            model=method.module,
            optimizer=Scaled(optimizer, accelerator.scaler) if scale else optimizer,
            accelerator=accelerator,  # type: ignore[arg-type]
            method=method,
            plan=plan,
            accumulate=config.accumulate,
        )

    return made


@pytest.fixture
def crops_of() -> Callable[..., list[Tensor]]:
    """Makes the crops of a step: two of 16 and three of 8 pixels of each of 12 images."""

    def made(step: int = 0) -> list[Tensor]:
        random = torch.Generator().manual_seed(step)
        sizes = ((2, 16), (3, 8))
        return [torch.randint(0, 256, (n, 12, 1, s, s), generator=random, dtype=torch.uint8) for n, s in sizes]

    return made
