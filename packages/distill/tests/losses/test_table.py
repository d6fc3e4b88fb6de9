"""The list of losses, what binds them to two networks, and their weighted sum."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_data.errors import BadInput
from cxr_distill.losses import (
    LOSSES,
    STAGES,
    TASK_LOSSES,
    Outputs,
    build_adapters,
    check_parts,
    features,
    logits,
    recommended,
    relations,
    task_loss,
    weighted_sum,
)
from cxr_distill.losses import task as label_losses

OWN = {"stage1": 2, "stage2": 3, "stage3": 4, "stage4": 5, "pooled": 5}
ITS = {"stage1": 4, "stage2": 4, "stage3": 6, "stage4": 8, "pooled": 8}
EDGES = dict(zip(STAGES, (16, 8, 4, 2), strict=True))
TEACHER_EDGES = dict(zip(STAGES, (12, 6, 3, 3), strict=True))
B, L = 6, 3


def outputs(channels, edges, seed):
    g = torch.Generator().manual_seed(seed)
    found = {s: torch.randn(B, channels[s], edges[s], edges[s], generator=g) for s in STAGES}
    found["pooled"] = torch.randn(B, channels["pooled"], generator=g)
    tensors = (torch.randn(B, L, generator=g), found, torch.randn(L, channels["pooled"], generator=g))
    for tensor in (tensors[0], *found.values(), tensors[2]):
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
    found = {name: feature.bfloat16() for name, feature in out.features.items()}
    return Outputs((1e4 * out.logits).bfloat16(), found, out.classifier_weight.bfloat16())


def leaves(out):
    return [out.logits, *out.features.values(), out.classifier_weight]


def case(name):
    task = LOSSES[name].tasks[0]
    torch.manual_seed(0)
    parts = {name: 1.0}
    adapters = build_adapters(parts, OWN, ITS, "stage3")
    return task, parts, outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2), targets_of(task), adapters


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_teaches_student_and_adapter_and_not_the_teacher(name):
    task, parts, student, teacher, y, adapters = case(name)
    total, values = weighted_sum(parts, student, teacher, y, task=task, stage="stage3", adapters=adapters)
    total.backward()
    assert total.shape == ()
    assert total.dtype == torch.float32
    assert total.item() > 0
    assert values.keys() == {name}
    assert sum(float(x.grad.abs().sum()) for x in leaves(student) if x.grad is not None) > 0
    assert all(x.grad is None for x in leaves(teacher))
    assert all(p.grad is not None for p in adapters.parameters())
    assert (LOSSES[name].make_adapter is not None) == (len(adapters) == 1)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_reads_only_what_it_says_it_needs(name):
    task, parts, student, teacher, y, adapters = case(name)
    keep = set(LOSSES[name].stages("stage3"))

    def strip(out):
        weight = out.classifier_weight if "classifier" in LOSSES[name].needs else None
        return Outputs(out.logits, {k: v for k, v in out.features.items() if k in keep}, weight)

    settings = {"task": task, "stage": "stage3", "adapters": adapters.eval()}
    full, _ = weighted_sum(parts, student, teacher, y, **settings)
    stripped, _ = weighted_sum(parts, strip(student), strip(teacher), y, **settings)
    torch.testing.assert_close(stripped, full)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_finite_in_bfloat16_with_unknown_labels(name):
    task, parts, student, teacher, y, adapters = case(name)
    y[1] = float("nan")
    own, its = narrowed(student), narrowed(teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = weighted_sum(parts, own, its, y, task=task, stage="stage3", adapters=adapters)
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
    task, parts, student, teacher, y, adapters = case(name)
    adapters.double()  # a layer that learns is computed as networks are, and not of interest here
    torch.set_float32_matmul_precision("high")
    try:
        with Float32Products() as products:
            total, _ = weighted_sum(parts, student, teacher, y, task=task, stage="stage3", adapters=adapters)
            total.backward()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(products.seen) <= {"highest"}
    assert products.seen or name not in ("sp", "cam", "attention_transfer")


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_the_batch_does_not_matter(name):
    task, parts, student, teacher, y, adapters = case(name)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def shuffled(out):
        return Outputs(out.logits[order], {k: v[order] for k, v in out.features.items()}, out.classifier_weight)

    settings = {"task": task, "stage": "stage3", "adapters": adapters}
    one, _ = weighted_sum(parts, student, teacher, y, **settings)
    other, _ = weighted_sum(parts, shuffled(student), shuffled(teacher), y[order], **settings)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_lines_bind_the_formulas_they_name():
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
        "softmax_mse": logits.softmax_mse(s, t),
        "dkd": logits.dkd(s, t, classes, temperature=4),
        "multilabel_kd": logits.multilabel_kd(s, t, temperature=1),
        "sigmoid_mse": logits.sigmoid_mse(s, t),
        "attention_transfer": features.attention_transfer([f[k] for k in STAGES], [g[k] for k in STAGES]),
        "cam": features.cam(f["stage4"], w, g["stage4"], v),
        "rkd": relations.rkd(f["pooled"], g["pooled"]),
        "pkt": relations.pkt(f["pooled"], g["pooled"]),
        "sp": relations.sp(f["stage4"], g["stage4"]),
        "led": relations.led(e_s, e_t, labels),
    }
    assert expected.keys() == LOSSES.keys() - {"fitnets", "simkd", "reviewkd", "crd"}
    for name, value in expected.items():
        task = LOSSES[name].tasks[0]
        y = classes if task == "multiclass" else labels
        got, _ = weighted_sum({name: 1.0}, student, teacher, y, task=task)
        torch.testing.assert_close(got, value, msg=name)


def test_adapted_losses_bind_formula_and_adapter():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    parts = {"fitnets": 1.0, "simkd": 1.0, "reviewkd": 1.0, "crd": 1.0}
    adapters = build_adapters(parts, OWN, ITS, "pooled").eval()
    _, values = weighted_sum(
        parts,
        student,
        teacher,
        targets_of("multilabel"),
        task="multilabel",
        stage="pooled",
        adapters=adapters,
    )
    f, g = student.features, teacher.features
    torch.testing.assert_close(values["fitnets"], features.fitnets(adapters["fitnets"](f["pooled"]), g["pooled"]))
    torch.testing.assert_close(values["simkd"], features.simkd(adapters["simkd"](f["pooled"]), g["pooled"]))
    torch.testing.assert_close(values["crd"], features.crd(*adapters["crd"](f["pooled"], g["pooled"])))
    fused = adapters["reviewkd"]([f[k] for k in STAGES])
    assert [m.shape[1] for m in fused] == [ITS[k] for k in STAGES]


def test_weighted_sum_is_the_weighted_sum():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    y = targets_of("multilabel")
    parts = {"multilabel_kd": 10.0, "rkd": 0.5, "pkt": 0.0}
    total, values = weighted_sum(parts, student, teacher, y, task="multilabel", temperature=2.0)
    torch.testing.assert_close(total.detach(), 10 * values["multilabel_kd"] + 0.5 * values["rkd"])
    torch.testing.assert_close(
        values["multilabel_kd"], logits.multilabel_kd(student.logits, teacher.logits, temperature=2).detach()
    )
    assert not any(value.requires_grad for value in values.values())
    nothing, values = weighted_sum({}, student, teacher, y, task="multilabel")
    assert nothing.item() == 0
    assert values == {}


@pytest.mark.parametrize("name", ["kd", "multilabel_kd"])
def test_the_teacher_answers_for_unknown_labels_only_when_asked(name):
    task, parts, student, teacher, y, _ = case(name)
    y[2:] = float("nan")
    masked, _ = weighted_sum(parts, student, teacher, y, task=task)
    everything, _ = weighted_sum(parts, student, teacher, y, task=task, use_unlabelled=True)
    formula = LOSSES[name].formula
    temperature = LOSSES[name].temperature
    torch.testing.assert_close(masked, formula(student.logits[:2], teacher.logits[:2], temperature=temperature))
    torch.testing.assert_close(everything, formula(student.logits, teacher.logits, temperature=temperature))


def test_options_reach_the_formula():
    _, parts, student, teacher, y, _ = case("dkd")
    got, _ = weighted_sum(parts, student, teacher, y, task="multiclass", options={"dkd": {"beta": 8.0}})
    torch.testing.assert_close(got, logits.dkd(student.logits, teacher.logits, y, temperature=4, beta=8.0))
    assert LOSSES["dkd"].options == ("alpha", "beta", "standardise", "ddof")
    assert LOSSES["kd"].options == ("scale_by_t2", "standardise", "ddof")
    assert LOSSES["crd"].options == ("temperature",)


@pytest.mark.parametrize(
    ("parts", "task", "options", "message"),
    [
        ({"kdd": 1.0}, "multiclass", None, "did you mean kd"),
        ({"kd": 1.0}, "multilabel", None, "use multilabel_kd"),
        ({"multilabel_kd": 1.0}, "multiclass", None, "use kd"),
        ({"led": 1.0}, "multiclass", None, "choose one of kd"),
        ({"kd": -1.0}, "multiclass", None, "a weight of 0 or more"),
        ({"kd": float("nan")}, "multiclass", None, "a weight of 0 or more"),
        ({"kd": 1.0}, "multi_class", None, "did you mean multiclass"),
        ({"dkd": 1.0}, "multiclass", {"dkd": {"betta": 1.0}}, "did you mean beta"),
        ({"dkd": 1.0}, "multiclass", {"kd": {"standardise": 1.0}}, "distillation loss in use"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(parts, task, options, message):
    with pytest.raises(BadInput, match=message):
        check_parts(parts, task, options)


@pytest.mark.parametrize("name", ["dist", "kd_standardised"])
def test_two_classes_say_nothing_to_losses_that_compare_them(name):
    check_parts({name: 1.0}, "multiclass", labels=3)
    with pytest.raises(BadInput, match="at least 3 labels"):
        check_parts({name: 1.0}, "multiclass", labels=2)


def test_features_that_are_not_there_are_named():
    student, teacher = outputs(OWN, EDGES, 1), outputs(ITS, TEACHER_EDGES, 2)
    y = targets_of("multilabel")
    bare = Outputs(student.logits)
    with pytest.raises(BadInput, match="'pooled' of student and teacher, found none of that name"):
        weighted_sum({"rkd": 1.0}, bare, teacher, y, task="multilabel")
    headless = student._replace(classifier_weight=torch.zeros(L, 7))
    with pytest.raises(BadInput, match="linear classifier on the network's 5 channels, found one on 7"):
        weighted_sum({"cam": 1.0}, headless, teacher, y, task="multilabel")
    with pytest.raises(ValueError, match="fitnets wants its adapter"):
        weighted_sum({"fitnets": 1.0}, student, teacher, y, task="multilabel")
    with pytest.raises(BadInput, match="features 'stage1'"):
        build_adapters({"reviewkd": 1.0}, {"stage4": 5}, ITS, "stage4")
    with pytest.raises(BadInput, match="did you mean stage"):
        build_adapters({"fitnets": 1.0}, OWN, ITS, "stage5")


def test_stages_name_what_the_networks_must_give():
    assert LOSSES["kd"].stages("stage3") == ()
    assert LOSSES["fitnets"].stages("stage3") == ("stage3",)
    assert LOSSES["fitnets"].stages("pooled") == ("pooled",)
    assert LOSSES["reviewkd"].stages("stage3") == STAGES
    assert LOSSES["cam"].stages("stage1") == ("stage4",)


def test_adapters_fit_channels_and_stage():
    adapters = build_adapters({"kd": 1.0, "fitnets": 1.0, "crd": 1.0}, OWN, ITS, "stage2")
    assert list(adapters) == ["fitnets", "crd"]
    assert adapters.get_parameter("fitnets.weight").shape == (4, 3, 1, 1)
    assert adapters.get_parameter("crd.student.weight").shape == (128, 5)
    assert adapters.get_parameter("crd.teacher.weight").shape == (128, 8)
    assert len(build_adapters({"kd": 1.0}, {}, {}, "stage4")) == 0


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
    check_parts(recommended(task, labels), task, labels=labels)


def test_what_is_recommended_depends_on_task_and_number_of_classes():
    found = [recommended(*case) for case in (("multiclass", 2), ("multiclass", 3), ("multilabel", 2))]
    assert found == [{"kd": 0.9}, {"dkd": 1.0}, {"multilabel_kd": 1.0}]
    with pytest.raises(BadInput, match="known task"):
        recommended("regression", 2)


def test_weights_are_those_of_the_literature():
    assert (LOSSES["kd"].task_weight, LOSSES["kd"].weight, LOSSES["kd"].temperature) == (0.1, 0.9, 4.0)
    assert (LOSSES["kd_standardised"].weight, LOSSES["kd_standardised"].temperature) == (9.0, 2.0)
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
