"""Products of matrices in full precision, forward and backward."""

import pytest
import torch

from cxr_distill.losses.precision import full_precision, product


@pytest.mark.parametrize(("a", "b"), [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 6, 3, 4), (4, 5))])
def test_a_product_and_its_gradient(a, b):
    x, y = (
        torch.randn(a, dtype=torch.float64, requires_grad=True),
        torch.randn(b, dtype=torch.float64, requires_grad=True),
    )
    torch.testing.assert_close(product(x, y), x @ y)
    assert torch.autograd.gradcheck(product, (x, y))


def test_the_setting_is_given_back_also_after_an_error():
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(RuntimeError, match="mat1"):
            product(torch.zeros(2, 3), torch.zeros(4, 5))
        assert torch.get_float32_matmul_precision() == "high"
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_autocast_does_not_reach_it():
    x, y = torch.randn(8, 16, requires_grad=True), torch.randn(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = product(x, y)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, x @ y)
    result.sum().backward()
    assert x.grad is not None
