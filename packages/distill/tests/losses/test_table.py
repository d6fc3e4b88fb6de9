"""The list of losses, how they read the outputs of two networks, their settings and their sum."""

from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_data.errors import BadInput
from cxr_distill.losses import (
    CRD,
    DKD,
    KD,
    LEVELS,
    LOSSES,
    TASK_LOSSES,
    FitNets,
    Interface,
    Loss,
    MultilabelKD,
    Outputs,
    PooledCosine,
    ReviewKD,
    SimKD,
    StandardisedKD,
    build_adapters,
    build_losses,
    check_losses,
    each_loss,
    features,
    logits,
    loss_settings,
    recommended,
    relations,
    squared,
    task_loss,
)
from cxr_distill.losses import task as label_losses

OWN = {"level1": 2, "level2": 3, "level3": 4, "level4": 5, "pooled": 5}
ITS = {"level1": 4, "level2": 4, "level3": 6, "level4": 8, "pooled": 8}
EDGES = dict(zip(LEVELS, (16, 8, 4, 2), strict=True))
TEACHER_EDGES = dict(zip(LEVELS, (12, 6, 3, 3), strict=True))
B, L = 6, 3


def outputs(channels, edges, seed):
    g = torch.Generator().manual_seed(seed)
    actual = {s: torch.randn(B, channels[s], edges[s], edges[s], generator=g) for s in LEVELS}
    actual["pooled"] = torch.randn(B, channels["pooled"], generator=g)
    tensors = (torch.randn(B, L, generator=g), actual, torch.randn(L, channels["pooled"], generator=g))
    for tensor in (tensors[0], *actual.values(), tensors[2]):
        tensor.requires_grad_()
    return Outputs(*tensors)


def targets_of(task):
    if task == "multiclass":
        return torch.eye(L).repeat(B // L, 1)
    return (
        torch.randint(0, 2, (B, L), generator=torch.Generator().manual_seed(9))
        .float()
        .index_fill(0, torch.tensor([0]), 1)
    )


def narrowed(out):
    actual = {name: feature.bfloat16() for name, feature in out.features.items()}
    return Outputs((1e4 * out.logits).bfloat16(), actual, out.classifier_weight.bfloat16())


def leaves(out):
    return [out.logits, *out.features.values(), out.classifier_weight]


def interfaces():
    classifier = (torch.randn(L, ITS["pooled"]), torch.randn(L))
    return Interface(OWN), Interface(ITS, classifier)


def case(name):
    kind = LOSSES[name]
    torch.manual_seed(0)
    losses: dict[Loss, float] = {FitNets(feature="level3") if kind is FitNets else kind(): 1.0}
    adapters = build_adapters(losses, *interfaces())
    return losses, outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2), targets_of(kind.tasks[0]), adapters


def summed(losses, *given, **options):
    values = each_loss(losses, *given, **options)
    return torch.stack([weight * values[loss.name] for loss, weight in losses.items()]).sum()


every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_every_loss_teaches_student_and_adapter_and_not_the_teacher(name):
    losses, student, teacher, y, adapters = case(name)
    values = each_loss(losses, student, teacher, y, adapters=adapters)
    assert values.keys() == {name}
    total = values[name]
    total.backward()
    assert total.shape == ()
    assert total.dtype == torch.float32
    assert total.item() > 0
    assert sum(float(x.grad.abs().sum()) for x in leaves(student) if x.grad is not None) > 0
    assert all(x.grad is None for x in leaves(teacher))
    assert all(p.grad is not None for p in adapters.parameters())


@every_loss
def test_every_loss_reads_only_what_it_says_it_reads(name):
    losses, student, teacher, y, adapters = case(name)
    keep = {feature for loss in losses for feature in loss.features}

    def strip(out):
        weight = out.classifier_weight if name in ("cam", "led") else None
        return Outputs(out.logits, {k: v for k, v in out.features.items() if k in keep}, weight)

    adapters.eval()
    full = summed(losses, student, teacher, y, adapters=adapters)
    stripped = summed(losses, strip(student), strip(teacher), y, adapters=adapters)
    torch.testing.assert_close(stripped, full)


@every_loss
def test_every_loss_is_finite_in_bfloat16_with_unknown_labels(name):
    losses, student, teacher, y, adapters = case(name)
    y[1] = float("nan")
    own, its = narrowed(student), narrowed(teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = summed(losses, own, its, y, adapters=adapters, use_unlabelled=False)
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert all(x.grad.isfinite().all() for x in leaves(student) if x.grad is not None)
    assert all(x.grad is None for x in leaves(teacher))


class Float32Products(TorchDispatchMode):
    """Notes the precision that each float32 product of matrices may be rounded to."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        if name in ("mm", "bmm", "addmm", "baddbmm", "mv", "dot") and args[-1].dtype == torch.float32:
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_is_rounded_to_what_the_networks_may_be_rounded_to(name):
    """TF32 on NVIDIA GPUs, bfloat16 on CPUs: neither in the forward nor in the backward pass."""
    losses, student, teacher, y, adapters = case(name)
    adapters.double()  # a layer that learns is computed as networks are, and not of interest here
    torch.set_float32_matmul_precision("high")
    try:
        with Float32Products() as products:
            total = summed(losses, student, teacher, y, adapters=adapters)
            total.backward()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(products.seen) <= {"highest"}
    assert products.seen or name not in ("sp", "cam", "attention_transfer")


@every_loss
def test_order_of_the_batch_does_not_matter(name):
    losses, student, teacher, y, adapters = case(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def shuffled(out):
        return Outputs(out.logits[order], {k: v[order] for k, v in out.features.items()}, out.classifier_weight)

    same = summed(losses, student, teacher, y, adapters=adapters)
    other = summed(losses, shuffled(student), shuffled(teacher), y[order], adapters=adapters)
    torch.testing.assert_close(same, other, rtol=1e-4, atol=1e-5)


@every_loss
def test_whether_images_are_compared_is_said_rightly(name):
    """A loss that is a mean over images is the mean of its values on two halves of the batch; the others are not."""
    losses, student, teacher, y, adapters = case(name)
    adapters.eval()

    def half(out, part):
        return Outputs(out.logits[part], {k: v[part] for k, v in out.features.items()}, out.classifier_weight)

    (loss,) = losses
    whole = summed(losses, student, teacher, y, adapters=adapters)
    parts = [
        summed(losses, half(student, part), half(teacher, part), y[part], adapters=adapters)
        for part in (slice(0, 3), slice(3, 6))
    ]
    assert torch.allclose((parts[0] + parts[1]) / 2, whole, rtol=1e-4) != loss.compares_images


def test_every_class_computes_the_formula_of_its_name():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    classes, labels = targets_of("multiclass"), targets_of("multilabel")
    s, t = student.logits, teacher.logits
    f, g = student.features, teacher.features
    w, v = student.classifier_weight, teacher.classifier_weight
    assert w is not None
    assert v is not None
    e_s, e_t = relations.label_embeddings(f["pooled"], w), relations.label_embeddings(g["pooled"], v)
    expected = {
        "kd": logits.kd(s, t, temperature=4),
        "kd_plain": logits.kd(s, t, temperature=4, scale_by_t2=False),
        "kd_standardised": logits.kd(s, t, temperature=2, standardise=True),
        "dist": logits.dist(s, t, temperature=1),
        "softmax_mse": squared.softmax_mse(s, t),
        "dkd": logits.dkd(s, t, classes, temperature=4),
        "multilabel_kd": logits.multilabel_kd(s, t, temperature=1),
        "sigmoid_mse": squared.sigmoid_mse(s, t),
        "attention_transfer": features.attention_transfer([f[k] for k in LEVELS], [g[k] for k in LEVELS]),
        "cam": features.cam(f["level4"], w, g["level4"], v),
        "rkd": relations.rkd(f["pooled"], g["pooled"]),
        "pkt": relations.pkt(f["pooled"], g["pooled"]),
        "sp": relations.sp(f["level4"], g["level4"]),
        "led": relations.led(e_s, e_t, labels),
    }
    assert expected.keys() == LOSSES.keys() - {"fitnets", "simkd", "reviewkd", "crd", "pooled_cosine"}
    for name, value in expected.items():
        y = classes if LOSSES[name].tasks[0] == "multiclass" else labels
        torch.testing.assert_close(LOSSES[name]()(student, teacher, y), value, msg=name)


def test_losses_with_adapters_compute_formula_and_adapter():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    losses: dict[Loss, float] = dict.fromkeys(
        (FitNets(feature="pooled"), SimKD(), ReviewKD(), CRD(), PooledCosine()), 1.0
    )
    adapters = build_adapters(losses, *interfaces()).eval()
    values = each_loss(losses, student, teacher, targets_of("multilabel"), adapters=adapters)
    f, g = student.features["pooled"], teacher.features["pooled"]
    torch.testing.assert_close(values["fitnets"], features.fitnets(adapters["fitnets"](f), g))
    torch.testing.assert_close(values["simkd"], features.fitnets(adapters.get_submodule("simkd.projector")(f), g))
    torch.testing.assert_close(values["crd"], features.crd(*adapters["crd"](f, g)))
    torch.testing.assert_close(values["pooled_cosine"], features.cosine(adapters["pooled_cosine"](f), g))
    fused = adapters["reviewkd"]([student.features[k] for k in LEVELS])
    assert [m.shape[1] for m in fused] == [ITS[k] for k in LEVELS]


def test_a_projector_of_pooled_features_comes_where_widths_differ_or_when_asked_for():
    same = Interface({"pooled": 8})
    assert PooledCosine().adapter(same, same) is None
    assert isinstance(PooledCosine(projector=True).adapter(same, same), nn.Linear)
    assert isinstance(PooledCosine().adapter(Interface({"pooled": 5}), same), nn.Linear)


@pytest.mark.parametrize("name", ["kd", "multilabel_kd"])
def test_the_teacher_answers_for_unknown_labels_unless_told_otherwise(name):
    losses, student, teacher, y, _ = case(name)
    y[2:] = float("nan")
    masked = each_loss(losses, student, teacher, y, use_unlabelled=False)[name]
    everything = each_loss(losses, student, teacher, y)[name]
    formula, temperature = getattr(logits, name), vars(LOSSES[name]())["temperature"]
    torch.testing.assert_close(masked, formula(student.logits[:2], teacher.logits[:2], temperature=temperature))
    torch.testing.assert_close(everything, formula(student.logits, teacher.logits, temperature=temperature))


@pytest.mark.parametrize(
    ("settings", "built"),
    [
        ({"dkd": 1.0}, {DKD(): 1.0}),
        ({"dkd.beta": 4}, {DKD(beta=4.0): 1.0}),
        ({"dkd.beta": "1e-1", "dkd": 2}, {DKD(beta=0.1): 2.0}),
        (
            {"kd": 0.9, "kd.temperature": 2, "fitnets.feature": "pooled"},
            {KD(temperature=2): 0.9, FitNets(feature="pooled"): 100},
        ),
        ({"kd_standardised.ddof": 1.0}, {StandardisedKD(ddof=1): 9.0}),
        ({"pooled_cosine": 0.5, "pooled_cosine.projector": True}, {PooledCosine(projector=True): 0.5}),
        ({}, {}),
    ],
)
def test_settings_become_losses_and_back(settings, built):
    losses = build_losses(settings)
    assert losses == built
    assert build_losses(loss_settings(losses)) == built


@every_loss
def test_settings_name_every_hyperparameter(name):
    loss = LOSSES[name]()
    written = loss_settings({loss: loss.weight})
    wanted = {f"{name}.{field.name}" for field in fields(loss) if getattr(loss, field.name) is not None}
    assert written.keys() == {name} | wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kdd": 1.0}, "did you mean kd"),
        ({"dkd.betta": 1.0}, "did you mean beta"),
        ({"kd": -1.0}, "a number of 0 or more"),
        ({"kd": float("nan")}, "a number of 0 or more"),
        ({"kd": "much"}, "a number, found 'much'"),
        ({"kd": True}, "a number, found True"),
        ({"kd.temperature": 0}, "a temperature above 0"),
        ({"kd.temperature": -1}, "a number of 0 or more"),
        ({"kd.scale_by_t2": 1}, "true or false"),
        ({"kd_standardised.ddof": 0.5}, "a whole number"),
        ({"fitnets.feature": "level5"}, "did you mean level"),
        ({"no_such_module:Mine": 1}, "no_such_module"),
        ({"cxr_distill.losses:build_losses": 1}, "a subclass of"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_advice(settings, message):
    with pytest.raises(BadInput, match=message):
        build_losses(settings)


@pytest.mark.parametrize(
    ("losses", "task", "message"),
    [
        ({KD(): 1.0}, "multilabel", "use multilabel_kd"),
        ({MultilabelKD(): 1.0}, "multiclass", "use kd"),
        ({LOSSES["led"](): 1.0}, "multiclass", "choose one of kd"),
        ({KD(): -1.0}, "multiclass", "a weight of 0 or more"),
        ({KD(): 1.0}, "multi_class", "did you mean multiclass"),
        ({KD(): 1.0, KD(temperature=2): 1.0}, "multiclass", "'kd' twice"),
    ],
)
def test_combinations_that_cannot_work_are_refused_with_advice(losses, task, message):
    with pytest.raises(BadInput, match=message):
        check_losses(losses, task)


@pytest.mark.parametrize("name", ["dist", "kd_standardised"])
def test_two_classes_say_nothing_to_losses_that_compare_them(name):
    check_losses({LOSSES[name](): 1.0}, "multiclass", labels=3)
    with pytest.raises(BadInput, match="at least 3 labels"):
        check_losses({LOSSES[name](): 1.0}, "multiclass", labels=2)


def test_outputs_that_do_not_fit_are_named():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    y = targets_of("multilabel")
    with pytest.raises(BadInput, match="'pooled' of student and teacher, found none of that name"):
        LOSSES["rkd"]()(Outputs(student.logits), teacher, y)
    headless = student._replace(classifier_weight=torch.zeros(L, 7))
    with pytest.raises(BadInput, match="linear classifier on the network's 5 channels, found one on 7"):
        LOSSES["cam"]()(headless, teacher, y)
    with pytest.raises(ValueError, match="fitnets needs its adapter"):
        FitNets()(student, teacher, y)
    with pytest.raises(BadInput, match="features 'level1'"):
        build_adapters({ReviewKD(): 1.0}, Interface({"level4": 5}), Interface(ITS))
    with pytest.raises(BadInput, match="one shape"):
        KD()(student, Outputs(teacher.logits[:, :2]), y)


def test_adapters_fit_channels_and_level():
    adapters = build_adapters({KD(): 1.0, FitNets(feature="level2"): 1.0, CRD(): 1.0}, *interfaces())
    assert list(adapters) == ["fitnets", "crd"]
    assert adapters.get_parameter("fitnets.weight").shape == (4, 3, 1, 1)
    assert adapters.get_parameter("crd.student.weight").shape == (128, 5)
    assert adapters.get_parameter("crd.teacher.weight").shape == (128, 8)
    assert len(build_adapters({KD(): 1.0}, Interface({}), Interface({}))) == 0


@dataclass(frozen=True, kw_only=True)
class Stubborn(Loss):
    """A loss from outside the source tree, with a hyperparameter, an adapter and inputs of its own choice."""

    name = "stubborn"
    weight = 0.25
    power: float = 2.0

    @property
    def features(self):
        return ("level2", "pooled")

    def adapter(self, student, teacher):
        return nn.Linear(student.channels_of("pooled"), teacher.channels_of("pooled"))

    def compute(self, student, teacher, given):
        weight = given.targets.nan_to_num().sum(dim=1)
        moved = given.required_adapter(self.name)(student.features["pooled"])
        apart = (moved - teacher.features["pooled"].detach()).abs() ** self.power
        return (weight[:, None] * apart).mean() + student.features["level2"].square().mean()


def test_a_loss_from_elsewhere_works_by_its_name():
    student, teacher, y = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2), targets_of("multilabel")
    name = f"{__name__}:Stubborn"
    losses = build_losses({f"{name}.power": 1.0})
    assert losses == {Stubborn(power=1.0): 0.25}
    assert loss_settings(losses) == {name: 0.25, f"{name}.power": 1.0}
    check_losses(losses, "multilabel", labels=L)
    adapters = build_adapters(losses, *interfaces())
    each_loss(losses, student, teacher, y, adapters=adapters)["stubborn"].backward()
    assert student.features["level2"].grad is not None
    assert adapters.get_parameter("stubborn.weight").grad is not None


def test_task_losses_by_name():
    assert task_loss("multiclass") is label_losses.cross_entropy
    assert task_loss("multilabel", "auto") is label_losses.binary_cross_entropy
    assert task_loss("multiclass", "focal") is label_losses.focal_softmax
    assert task_loss("multilabel", "focal") is label_losses.focal
    with pytest.raises(BadInput, match="one for a multilabel task"):
        task_loss("multiclass", "asymmetric")
    with pytest.raises(BadInput, match="did you mean asymmetric"):
        task_loss("multilabel", "assymetric")
    with pytest.raises(BadInput, match="known task"):
        task_loss("regression")


@pytest.mark.parametrize("labels", [2, 3, 14])
@pytest.mark.parametrize("task", TASK_LOSSES)
def test_the_recommended_losses_suit_the_task(task, labels):
    check_losses(recommended(task, labels), task, labels=labels)


def test_what_is_recommended_depends_on_task_and_number_of_classes():
    actual = [recommended(*case) for case in (("multiclass", 2), ("multiclass", 3), ("multilabel", 2))]
    assert actual == [{KD(): 0.9}, {DKD(): 1.0}, {MultilabelKD(): 1.0}]
    with pytest.raises(BadInput, match="known task"):
        recommended("regression", 2)


def test_weights_are_those_of_the_literature():
    assert (KD.task_weight, KD.weight, KD().temperature) == (0.1, 0.9, 4.0)
    assert (StandardisedKD.weight, StandardisedKD().temperature) == (9.0, 2.0)
    usual = {
        "fitnets": 100,
        "attention_transfer": 1000,
        "pkt": 30000,
        "sp": 3000,
        "crd": 0.8,
    }
    assert {name: LOSSES[name].weight for name in usual} == usual
    assert LOSSES["multilabel_kd"].weight == 1  # published with 10, beside a sum over images and labels


def test_outputs_pass_through_accelerate_as_a_tuple():
    """Engines rebuild named tuples (to float32, across processes); other classes they leave alone."""
    from accelerate.utils import convert_to_fp32

    got = convert_to_fp32(Outputs(torch.zeros(1, 2).bfloat16(), {"pooled": torch.zeros(1, 3).bfloat16()}, None))
    assert isinstance(got, Outputs)
    assert got.logits.dtype == got.features["pooled"].dtype == torch.float32
