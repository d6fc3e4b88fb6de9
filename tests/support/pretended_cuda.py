"""Run a command on a pretended CUDA device: ``python pretended_cuda.py COMMAND ARGUMENTS``.

Tensors "on cuda:0" are a subclass over CPU tensors with real numbers. What would fail on a GPU fails here: operations
on tensors of both devices, ``.numpy()`` of a tensor on the device, CPU tensors indexed by tensors on the device. Speed,
kernels and memory are not pretended.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
FAULTS: list[str] = []
SYNCS: list[str] = []
"""Places within a training step that wait for the device."""
INDEXING = ("aten.index.", "aten.index_put", "aten._index_put")
# C++ sees tensors of the CPU, and puts there what it makes itself: the switch of a fake quantisation.
FROM_C = ("aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.",)
MAY_MIX = ("aten.copy_.", "aten._to_copy.", "aten._has_compatible_shallow_copy_type.", *FROM_C, *INDEXING)
WAITING = ("aten._local_scalar_dense.", "aten.nonzero.", "aten.masked_select.")
COMMANDS = {
    "ssl-pretrain": "cxr_ssl.cli:main",
    "finetune": "cxr_distill.cli:finetune",
    "distill": "cxr_distill.cli:distill",
    "evaluate": "cxr_eval.cli:main",
    "predict": "cxr_deploy.cli:predict",
    "benchmark-model": "cxr_deploy.cli:benchmark_model",
    "export-model": "cxr_deploy.cli:export_model",
}
_plain_to = torch.Tensor.to
_moving: list[bool] = []


def fault(message: str) -> str:
    """Note a fault with the places of the product it came from; returns the message."""
    places = [f for f in traceback.extract_stack() if "/packages/" in f.filename and "/src/" in f.filename]
    lines = [f"{place.filename.split('/src/')[1]}:{place.lineno}" for place in reversed(places[-4:])]
    FAULTS.append(f"{message}: {' < '.join(lines)}")
    return message


class Pretended(torch.Tensor):
    """A tensor on the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment] - as torch documents it
    _inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Pretended":
        out = torch.Tensor._make_subclass(cls, inner.detach(), False)  # C++ sees a CPU tensor: autocast works
        out._inner = inner
        return out

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretended({self._inner!r})"

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self._inner.detach().numpy()
        fault(f"numpy() of a tensor {tuple(self.shape)} on the device")
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return moved(self, ("cpu",), {})

    def cuda(self, *_: Any, **__: Any) -> torch.Tensor:
        return self

    def tolist(self) -> Any:
        return self._inner.tolist()

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return moved(self, args, kwargs)

    def data_ptr(self) -> int:
        return self._inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self._inner.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            new: Any = Pretended(self._inner.detach().clone())
            if getattr(self, "_is_param", False):
                new = torch.nn.Parameter(new, requires_grad=self.requires_grad)
            elif self.requires_grad:
                new.requires_grad_()
            memo[id(self)] = new
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._inner.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def moved(tensor: torch.Tensor, args: Iterable[Any], kwargs: dict[str, Any]) -> torch.Tensor:
    """`Tensor.to` that knows the pretended device."""
    args, kwargs, target = list(args), dict(kwargs), None
    if args and isinstance(args[0], torch.Tensor):
        other = args.pop(0)
        target = other.device
        args.insert(0, other.dtype)
    elif args and isinstance(args[0], str | torch.device | int):
        target = torch.device(args.pop(0))
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
    for option in ("device", "non_blocking"):
        kwargs.pop(option, None)
    args = [a for a in args[:1] if a is not None and not isinstance(a, bool)]
    if target is not None and target.type == "meta":
        return _plain_to(tensor._inner if isinstance(tensor, Pretended) else tensor, "meta", *args, **kwargs)
    if target is not None and (target.type == "cuda") != isinstance(tensor, Pretended):
        _moving.append(True)  # else a device=cpu comes from C++, which takes a pretended tensor for one of the CPU
        try:
            tensor = torch.ops.aten._to_copy.default(tensor, device=CUDA if target.type == "cuda" else CPU)
        finally:
            _moving.pop()
    return _plain_to(tensor, *args, **kwargs) if args or kwargs else tensor


def wants_cuda(kwargs: dict[str, Any]) -> bool:
    """Whether the keywords of an operation name the pretended device."""
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "cuda"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU after checking its devices, and put its results on the device they belong to."""
    name, flat = str(func), tree_flatten((args, kwargs))[0]
    tensors = [t for t in flat if isinstance(t, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretended)]
    others = [tuple(t.shape) for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    in_backward = torch._C._current_graph_task_id() != -1
    if ours and others and not name.startswith(MAY_MIX) and not in_backward:
        raise RuntimeError(fault(f"Expected all tensors to be on the same device, {name}: cuda:0 and cpu {others}"))
    if name.startswith(INDEXING) and ours and not isinstance(args[0], Pretended):
        raise RuntimeError(fault("indices should be either on cpu or on the same device as the indexed tensor (cpu)"))
    by_mask = name.startswith(INDEXING) and any(
        t.dtype == torch.bool for t in tree_flatten(args[1])[0] if t is not None
    )
    if ours and (by_mask or name.startswith(WAITING)):
        places = [f for f in traceback.extract_stack() if "/packages/" in f.filename and "/src/" in f.filename]
        if any(place.name == "train_step" for place in places):
            SYNCS.append(f"{places[-1].filename.split('/src/')[1]}:{places[-1].lineno} {name}")
    on_device, options = bool(ours), dict(kwargs)
    if options.get("device") is not None:
        on_device = wants_cuda(options) or (bool(ours) and not _moving)
        options["device"] = CPU
    elif name == "aten.copy_.default":
        on_device = isinstance(args[0], Pretended)
    if options.get("pin_memory"):
        options["pin_memory"] = False
    plain_args, plain_options = tree_map(lambda t: t._inner if isinstance(t, Pretended) else t, (tuple(args), options))
    out = func(*plain_args, **plain_options)
    if not on_device:
        return out
    known = {id(t._inner): t for t in ours}

    def wrap(t: Any) -> Any:
        if not isinstance(t, torch.Tensor) or isinstance(t, Pretended):
            return t
        return known[id(t)] if id(t) in known else Pretended(t)

    return tree_map(wrap, out)


class Mode(TorchDispatchMode):
    """Catches factories that ask for the pretended device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ours = any(isinstance(t, Pretended) for t in tree_flatten((args, kwargs))[0])
        return run(func, args, kwargs) if ours or wants_cuda(kwargs) else func(*args, **kwargs)


def install() -> None:
    """Pretend from here on, for the rest of the process."""
    constants = {
        "_lazy_init": None, "is_available": True, "device_count": 1, "current_device": 0, "set_device": None,
        "is_initialized": True, "is_bf16_supported": False, "get_device_name": "pretended",
        "get_device_capability": (8, 0), "manual_seed_all": None, "manual_seed": None, "max_memory_allocated": 0,
        "empty_cache": None, "synchronize": None, "_is_in_bad_fork": False, "memory_allocated": 0,
        "is_current_stream_capturing": False,
    }  # fmt: skip
    for name, value in constants.items():
        setattr(torch.cuda, name, lambda *_, _value=value, **__: _value)
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[assignment]
    torch.cuda.set_rng_state = lambda state, *_: torch.set_rng_state(state)  # type: ignore[assignment]
    torch.cuda.Event = Event  # type: ignore[misc, assignment] - pretended
    torch.Tensor.pin_memory = _pinned  # type: ignore[assignment] - pretended
    torch.optim.Optimizer._accelerator_graph_capture_health_check = lambda _: None  # type: ignore[attr-defined]
    torch.__future__.set_swap_module_params_on_conversion(True)
    _replace_autocast()
    module_to = torch.nn.Module.to
    torch.nn.Module.to = lambda self, *a, **k: module_to(  # type: ignore[assignment]
        self, *map(_indexed, a), **{key: _indexed(v) if key == "device" else v for key, v in k.items()}
    )
    torch.Tensor.to = lambda self, *a, **k: moved(self, a, k)  # type: ignore[assignment]
    torch.Tensor.cuda = lambda self, *_, **__: moved(self, ("cuda",), {})  # type: ignore[assignment]
    for name in ("tensor", "as_tensor"):
        setattr(torch, name, _factory(getattr(torch, name)))
    import accelerate.state

    accelerate.state.PartialState.default_device = property(lambda _: CUDA)  # type: ignore[assignment]
    Mode().__enter__()


class Event:
    """An event that has always come to pass."""

    def record(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return True


def _pinned(self: torch.Tensor, *_: Any) -> torch.Tensor:
    if isinstance(self, Pretended):
        raise RuntimeError(fault("cannot pin 'torch.cuda' tensors, only dense CPU tensors can be pinned"))
    return self.clone()


def _indexed(device: Any) -> Any:
    return "cuda:0" if str(device) == "cuda" else device


def _replace_autocast() -> None:
    from torch.amp import autocast_mode

    original = autocast_mode.autocast.__init__

    def init(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        original(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    autocast_mode.autocast.__init__ = init  # type: ignore[method-assign]


def _factory(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            return make(*args, **kwargs).to("cuda:0")
        return make(*args, **kwargs) if device is None else make(*args, device=device, **kwargs)

    return made


if __name__ == "__main__":
    install()
    sys.argv = sys.argv[1:]
    command = sys.argv[0]
    place, _, function = COMMANDS[command].partition(":")
    code = getattr(importlib.import_module(place), function)()
    print(*(f"device fault: {found}" for found in FAULTS), sep="\n")
    print(*(f"step waits: {found}" for found in dict.fromkeys(SYNCS)), sep="\n")
    raise SystemExit(code or len(FAULTS))
