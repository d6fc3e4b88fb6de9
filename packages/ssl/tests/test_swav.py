import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import SwaVLoss
from torch import nn

from cxr_ssl.codes import sinkhorn
from cxr_ssl.swav import SwAV, freeze_prototypes, normalise_prototypes, swapped_prediction_loss


@settings(deadline=None, max_examples=25)
@given(
    coded=st.integers(1, 3),
    others=st.integers(0, 6),
    batch=st.integers(1, 12),
    prototypes=st.integers(2, 40),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_loss_and_gradient_equal_lightly(coded, others, batch, prototypes, temperature, seed):
    if coded + others < 2:
        others = 1
    random = torch.Generator().manual_seed(seed)
    shape = (coded + others, batch, prototypes)
    scores = torch.rand(shape, generator=random, dtype=torch.float64) * 2 - 1
    ours, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    codes = torch.stack([sinkhorn(view) for view in ours[:coded]])
    loss = swapped_prediction_loss(ours, codes, temperature=temperature)
    expected = SwaVLoss(temperature=temperature)(list(theirs[:coded]), list(theirs[coded:]))
    loss.backward()
    expected.sum().backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-9, rtol=1e-9)


def test_loss_by_hand():
    random = np.random.default_rng(0)
    scores, codes = random.normal(size=(5, 4, 6)), random.dirichlet(np.ones(6), size=(2, 4))
    log_p = scores / 0.1 - np.log(np.exp(scores / 0.1).sum(-1, keepdims=True))

    def cross(a, v):
        return -np.mean([codes[a, b] @ log_p[v, b] for b in range(4)])

    expected = np.mean([np.mean([cross(a, v) for v in range(5) if v != a]) for a in range(2)])
    loss = swapped_prediction_loss(torch.tensor(scores), torch.tensor(codes))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_codes_and_scores_that_say_nothing_is_ln_k():
    loss = swapped_prediction_loss(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.25))
    assert loss.item() == pytest.approx(np.log(4), rel=1e-6)


def test_loss_refuses_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"got \(1, 3, 4\) and \(1, 3, 4\)"):
        swapped_prediction_loss(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="Expected scores"):
        swapped_prediction_loss(torch.zeros(4, 3, 4), torch.zeros(2, 2, 4))


class Pooled(nn.Module):
    """A backbone small enough to follow; remembers the shapes it was called with."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.convolution = nn.Conv2d(1, width, 3, stride=2)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, pixels):
        self.shapes.append(tuple(pixels.shape))
        return self.convolution(pixels.float() / 255).relu().mean((2, 3))


def tiny(embedding_dim=8, num_prototypes=20) -> SwAV:
    torch.manual_seed(0)
    return SwAV(Pooled(), 12, embedding_dim=embedding_dim, num_prototypes=num_prototypes)


def views(batch=6, seed=0, sizes=((2, 16), (3, 8))) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (n, batch, 1, s, s), generator=random, dtype=torch.uint8) for n, s in sizes]


def test_views_of_one_size_share_a_forward_and_keep_their_order():
    model = tiny().eval()
    embeddings, scores = model(views())
    assert model.backbone.shapes == [(12, 1, 16, 16), (18, 1, 8, 8)]
    assert embeddings.shape == (5, 6, 8)
    assert scores.shape == (5, 6, 20)
    _big, small = views()
    alone, _ = model([small[1:2, 2:3]])  # view 1 of the small ones, image 2; eval mode: no batch statistics
    torch.testing.assert_close(alone[0, 0], embeddings[3, 2])


def test_embeddings_and_prototypes_have_length_one_and_scores_are_cosines():
    model = tiny()
    embeddings, scores = model(views())
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(5, 6))
    torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(scores, embeddings @ model.prototypes.weight.T)
    assert model.prototypes.bias is None


def test_the_parameter_free_norm_removes_what_all_images_share():
    model = tiny()
    expected, _ = model(views(batch=32))
    with torch.no_grad():
        model.head.layers[-1].bias.add_(100.0)  # type: ignore[operator,union-attr] # without the norm every embedding would point the same way
    embeddings, _ = model(views(batch=32))
    torch.testing.assert_close(embeddings, expected, atol=2e-3, rtol=0)
    assert not list(model.standardise.parameters())


def test_scores_stay_float32_under_autocast():
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings, scores = model(views())
    assert embeddings.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, embeddings @ model.prototypes.weight.T)


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1)])
def test_frozen_prototypes_do_not_move_while_the_rest_learns(make):
    model = tiny()
    optimizer = make(model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(3):
        optimizer.zero_grad()
        _, scores = model(views(seed=step))
        loss = swapped_prediction_loss(scores, torch.stack([sinkhorn(v) for v in scores[:2]]))
        loss.backward()
        if step < 2:
            freeze_prototypes(model.prototypes)
        optimizer.step()
        if step == 2:
            normalise_prototypes(model.prototypes)
        after = dict(model.named_parameters())
        moved = not torch.equal(after["prototypes.weight"], before["prototypes.weight"])
        assert moved == (step == 2)
        assert not torch.equal(after["backbone.convolution.weight"], before["backbone.convolution.weight"])
    torch.testing.assert_close(model.prototypes.weight.norm(dim=1), torch.ones(20))
