import numpy as np
import torch
from torch import nn

from cxr_distill.average import Average


def test_it_follows_the_formula() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(module, 0.5)
    expected = {k: v.double().numpy() for k, v in module.state_dict().items() if v.is_floating_point()}
    for t in range(8):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))
            module(torch.randn(5, 3))
        average.update(module)
        decay = min(0.5, (1 + t) / (10 + t))
        for k, v in module.state_dict().items():
            if k in expected:
                expected[k] = decay * expected[k] + (1 - decay) * v.double().numpy()
    for k, v in expected.items():
        np.testing.assert_allclose(average.values[k].numpy(), v, atol=1e-5)


def test_within_the_block_the_module_has_the_averages() -> None:
    module = nn.Linear(2, 2)
    own = module.weight.detach().clone()
    average = Average(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    with average.applied(module):
        assert torch.equal(module.weight, own)
        with torch.no_grad():
            module.bias.fill_(7)
    assert torch.equal(module.weight, own + 1)
    assert torch.equal(average.values["bias"], torch.full((2,), 7.0))
    assert not torch.equal(module.bias, torch.full((2,), 7.0))


def test_state_comes_back() -> None:
    module = nn.Linear(2, 2)
    average = Average(module, 0.9)
    with torch.no_grad():
        module.weight.add_(1)
    average.update(module)
    other = Average(nn.Linear(2, 2), 0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    assert torch.equal(other.values["weight"], average.values["weight"])
