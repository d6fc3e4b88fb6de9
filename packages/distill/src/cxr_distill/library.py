"""Distillation from Python: any two modules, any iterable of batches; no files and no configs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from cxr_common.models.structure import evaluating
from cxr_data.errors import BadInput, require, require_known
from cxr_distill.losses import (
    FEATURES,
    TASK_LOSSES,
    AnsweringAdapter,
    Interface,
    Loss,
    Outputs,
    build_adapters,
    check_losses,
    each_loss,
    recommended,
)
from cxr_distill.losses import task_loss as loss_on_labels
from cxr_distill.teacher import put


def distill(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module],
    loader: Iterable[Any],
    *,
    task: str,
    losses: Mapping[Loss, float] | None = None,
    epochs: int = 1,
    optimizer: torch.optim.Optimizer | None = None,
    task_loss: str | None = None,
    task_weight: float | None = None,
    use_unlabelled: bool = True,
    student_layers: Mapping[str, str] | None = None,
    teacher_layers: Mapping[str, str] | None = None,
    on_epoch: Callable[[dict[str, float]], object] | None = None,
) -> list[dict[str, float]]:
    """Train a student on labels and on the outputs of its teachers.

        loss = task_weight · loss on labels + Σ weight · distillation loss

    Student and teacher see the same images. The teachers are run in eval mode, without gradients; several answer by the
    mean of their logits. The student is trained in place, in one process, in the precision of its weights.

    >>> import torch
    >>> from cxr_distill import distill
    >>> from cxr_distill.losses import MultilabelKD, PooledCosine
    >>> def network(width):
    ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.ReLU(),
    ...                                torch.nn.Linear(width, 3))
    >>> targets = torch.randint(0, 2, (32, 3)).float()
    >>> targets[::4, 1] = float("nan")  # unknown labels
    >>> data = torch.utils.data.TensorDataset(torch.randn(32, 1, 8, 8), targets)
    >>> loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    >>> losses = {MultilabelKD(): 1.0, PooledCosine(): 0.5}
    >>> history = distill(network(8), network(32), loader, task="multilabel", losses=losses, epochs=2)
    >>> sorted(history[0])
    ['agreement', 'epoch', 'loss', 'multilabel_kd', 'pooled_cosine', 'task']

    Args:
        student: Maps images to logits (B, L).
        teacher: One or several such modules, labels in the student's order, on the student's device.
        loader: Yields (images, targets) once per epoch. Targets: for "multilabel" (B, L) in [0, 1] with NaN where
            unknown; for "multiclass" the same with rows summing to 1, or class numbers (B,), negative where unknown.
            Batches on the CPU are moved to the student's device.
        task: "multiclass" or "multilabel".
        losses: Distillation losses and their weights; None takes `cxr_distill.losses.recommended`.
        epochs: Passes over the loader, at least 1.
        optimizer: Of the student's parameters; adapters of the losses are added to it. None is AdamW, learning rate
            1e-3, weight decay 0.05.
        task_loss: A loss on labels in `cxr_distill.losses.TASK_LOSSES`; None is cross-entropy, or binary cross-entropy.
        task_weight: Weight of the loss on labels; None takes the one usual with the first distillation loss.
        use_unlabelled: Whether the teachers' answers are also learnt where a label is unknown.
        student_layers: For losses that read maps, dotted names of the student's modules that give them, e.g.
            {"level4": "layer4"}. "pooled" is the input of the last linear layer unless named here.
        teacher_layers: The same of the teacher.
        on_epoch: Called with the metrics of every epoch.

    Returns:
        Metrics of each epoch: "epoch" from 1, means over batches of "loss", of "task" and of each distillation loss
        before its weight, and "agreement", how often student and teacher decide alike.

    Raises:
        BadInput: Modules, losses or batches that do not fit each other, another device, or NaN where none may be.
    """
    teachers = [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    _check_call(teachers, loader, task, epochs)
    device = _device_of([student, *teachers])
    first = next(iter(_batches(loader, device)), None)
    if first is None:
        raise BadInput("a loader that yields batches", "an empty one", where="loader")
    with ExitStack() as stack:
        for module in (student, *teachers):
            stack.enter_context(evaluating(module))
        see_student = stack.enter_context(_observed(student, student_layers or {}))
        see_teachers = [stack.enter_context(_observed(module, teacher_layers or {})) for module in teachers]
        with torch.no_grad():
            own, its = see_student(first[0]), _joint([see(first[0]) for see in see_teachers])
        chosen: Mapping[Loss, float] = recommended(task, own.logits.shape[-1]) if losses is None else losses
        check_losses(chosen, task, labels=own.logits.shape[-1])
        if len(teachers) > 1 and any(loss.features for loss in chosen):
            raise BadInput("losses on logits with several teachers", "one on features", where="losses")
        adapters = build_adapters(chosen, _interface(own, student), _interface(its, teachers[0])).to(device)
        answering = next((a for a in adapters.values() if isinstance(a, AnsweringAdapter)), None)
        if answering is not None and _classifier(student) is None:
            raise BadInput("a student that ends in a linear layer", type(student).__name__, where="losses")
        optimizer = optimizer or torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05)
        if len(adapters):
            optimizer.add_param_group({"params": list(adapters.parameters())})
        on_labels = loss_on_labels(task, task_loss or "auto")
        usual = next((loss.task_weight for loss in chosen), 1.0)
        weights = {"task": usual if task_weight is None else task_weight} | {k.name: w for k, w in chosen.items()}

        student.train()
        history: list[dict[str, float]] = []
        for epoch in range(1, epochs + 1):
            sums, batches = dict.fromkeys(("loss", *weights, "agreement"), 0.0), 0
            for batches, (images, targets) in enumerate(_batches(loader, device), start=1):
                where = f"batch {batches} of epoch {epoch}"
                with torch.no_grad():
                    its = _joint([see(images) for see in see_teachers])
                own = see_student(images)
                if answering is not None:
                    own = own._replace(logits=answering(own.features["pooled"]))
                targets = _targets(targets, own.logits, task, where)
                _check_logits(own.logits, its.logits, targets, where)
                terms = {"task": on_labels(own.logits, targets)} | each_loss(
                    chosen, own, its, targets, adapters=adapters, use_unlabelled=use_unlabelled
                )
                _check_terms(terms, where)
                loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                agreement = _agreement(own.logits, its.logits, task)
                for name, value in {"loss": loss, **terms, "agreement": agreement}.items():
                    sums[name] += float(value.detach())
            history.append({"epoch": epoch, **{name: total / batches for name, total in sums.items()}})
            if on_epoch is not None:
                on_epoch(history[-1])
        if answering is not None:
            put(cast(nn.Linear, _classifier(student)), *answering.folded())
    return history


def _check_call(teachers: Sequence[nn.Module], loader: Iterable[Any], task: str, epochs: int) -> None:
    """Refuse what can be told to be wrong before anything is computed."""
    require_known("task", task, TASK_LOSSES)
    require(bool(teachers), "at least one teacher", "none", "teacher")
    require(epochs >= 1, "1 or more epochs", epochs, "epochs")
    once_per_epoch = "a loader that can be iterated once per epoch, such as a DataLoader or a list"
    require(not isinstance(loader, Iterator), once_per_epoch, f"an iterator, {type(loader).__name__}", "loader")


def _device_of(modules: Sequence[nn.Module]) -> torch.device:
    """The one device of all modules."""
    devices = {parameter.device for module in modules for parameter in module.parameters()}
    if len(devices) > 1:
        raise BadInput(
            "student and teachers on one device",
            " and ".join(sorted(map(str, devices))),
            do="move them first: teacher.to(device)",
        )
    return next(iter(devices), torch.device("cpu"))


def _batches(loader: Iterable[Any], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Checked batches on the device."""
    for number, batch in enumerate(loader, start=1):
        where = f"batch {number} of the loader"
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)):
            kind = type(batch).__name__
            found = f"{kind} of {len(batch)}" if isinstance(batch, list | tuple | dict) else kind
            raise BadInput("a batch (images, targets) of two tensors", found, where=where)
        images, targets = batch
        for name, x in (("images", images), ("targets", targets)):
            if x.device.type not in ("cpu", device.type) or (x.device.type == device.type and x.device != device):
                places = "the CPU" if device.type == "cpu" else f"the CPU or on {device}"
                raise BadInput(f"{name} on {places}, where the student is", str(x.device), where=where)
        if len(images) != len(targets) or not len(images):
            raise BadInput(
                "as many targets as images, at least one", f"{len(targets)} for {len(images)} images", where=where
            )
        if images.is_floating_point() and not images.isfinite().all():
            raise BadInput("images without NaN or infinity", "some", where=where, do="look at what the data set reads")
        yield images.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def _targets(targets: Tensor, logits: Tensor, task: str, where: str) -> Tensor:
    """Targets (B, L) float32 in [0, 1], NaN where unknown."""
    labels = logits.shape[-1]
    if task == "multiclass" and targets.ndim == 1 and not targets.is_floating_point():
        if int(targets.max()) >= labels:
            raise BadInput(f"class numbers below {labels}, one per logit", str(int(targets.max())), where=where)
        numbers = targets.long()
        rows = nn.functional.one_hot(numbers.clamp(min=0), labels).float()
        return torch.where((numbers < 0)[:, None], torch.nan, rows)
    if targets.ndim != 2:
        classes = " or class numbers (images,)" if task == "multiclass" else ""
        raise BadInput(f"targets (images, labels){classes}", f"shape {tuple(targets.shape)}", where=where)
    targets = targets.float()
    known = targets[~targets.isnan()]
    if known.numel() and not (known.min() >= 0 and known.max() <= 1):
        raise BadInput(
            "targets from 0 to 1, or NaN where unknown", f"{known.min():.4g} to {known.max():.4g}", where=where
        )
    return targets


def _check_logits(student: Tensor, teacher: Tensor, targets: Tensor, where: str) -> None:
    """Refuse logits that do not fit the targets, and a teacher that answers NaN."""
    shapes = {"student": student, "teacher": teacher, "targets": targets}
    if len({x.shape for x in shapes.values()}) > 1 or student.ndim != 2:
        raise BadInput(
            "logits of student and teacher and targets of one shape, (images, labels)",
            ", ".join(f"{name} {tuple(x.shape)}" for name, x in shapes.items()),
            where=where,
            do="give all three the same labels in one order",
        )
    if not teacher.isfinite().all():
        raise BadInput("finite logits of the teacher", "NaN or infinity", where=where, do="check its normalisation")


def _check_terms(terms: Mapping[str, Tensor], where: str) -> None:
    """Stop a training that has diverged, naming the loss."""
    for name, term in terms.items():
        if not term.detach().isfinite():
            raise BadInput(f"a finite {name} loss", f"{term.item()}", where=where, do="lower the learning rate")


def _joint(outputs: Sequence[Outputs]) -> Outputs:
    """The answer of one teacher, or the mean logits of several."""
    if len(outputs) == 1:
        return outputs[0]
    shapes = {tuple(answer.logits.shape) for answer in outputs}
    if len(shapes) > 1:
        raise BadInput("teachers with logits of one shape", " and ".join(map(str, sorted(shapes))), where="teacher")
    return Outputs(torch.stack([answer.logits for answer in outputs]).mean(dim=0))


@contextmanager
def _observed(module: nn.Module, layers: Mapping[str, str]) -> Iterator[Callable[[Tensor], Outputs]]:
    """A function that runs the module and also gives the features of the named layers and "pooled"."""
    seen: dict[str, Tensor] = {}
    known, handles, classifier = dict(module.named_modules()), [], _classifier(module)

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: seen.update({name: output})

    for feature, layer in layers.items():
        require_known("feature", feature, FEATURES)
        require_known(f"module of {type(module).__name__}", layer, known)
        handles.append(known[layer].register_forward_hook(keep(feature)))
    if classifier is not None and "pooled" not in layers:
        handles.append(classifier.register_forward_pre_hook(lambda _module, inputs: seen.update(pooled=inputs[0])))

    def run(images: Tensor) -> Outputs:
        seen.clear()
        try:
            logits = module(images)
        except (RuntimeError, AssertionError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            found = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}: {' '.join(str(error).split())}"
            raise BadInput("images of the shape and dtype that it takes", found, where=type(module).__name__) from error
        if not isinstance(logits, Tensor):
            raise BadInput("logits, one tensor (images, labels)", type(logits).__name__, where=type(module).__name__)
        return Outputs(logits, dict(seen), None if classifier is None else classifier.weight)

    try:
        yield run
    finally:
        for handle in handles:
            handle.remove()


def _classifier(module: nn.Module) -> nn.Linear | None:
    """The last linear layer: what timm's ``get_classifier`` says, else the last one defined."""
    get = getattr(module, "get_classifier", None)
    layer = get() if callable(get) else None
    if isinstance(layer, nn.Linear):
        return layer
    return next((part for part in reversed(list(module.modules())) if isinstance(part, nn.Linear)), None)


def _interface(outputs: Outputs, module: nn.Module) -> Interface:
    layer = _classifier(module)
    channels = {name: x.shape[1] for name, x in outputs.features.items()}
    if layer is None:
        return Interface(channels)
    bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
    return Interface(channels, (layer.weight, bias))


def _agreement(student: Tensor, teacher: Tensor, task: str) -> Tensor:
    """How often both decide alike: of images in multiclass, of labels in multilabel."""
    if task == "multiclass":
        return (student.argmax(dim=1) == teacher.argmax(dim=1)).float().mean()
    return ((student > 0) == (teacher > 0)).float().mean()
