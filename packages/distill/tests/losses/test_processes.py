"""A step means the same in one process and in two."""

from pathlib import Path

import pytest
import torch

from cxr_distill.losses import LOSSES


@pytest.mark.slow
def test_value_and_gradient_of_every_loss_are_those_of_the_whole_batch(tmp_path, in_two_processes) -> None:
    target = tmp_path / "results.pt"
    for code, said in in_two_processes(str(Path(__file__).with_name("two_processes.py")), str(target)):
        assert code == 0, said
    results = torch.load(target, weights_only=True)
    assert {name.partition(",")[0] for name in results["alone"]} > LOSSES.keys()
    for name, (value, gradients) in results["alone"].items():
        its, others = results["together"][name]
        torch.testing.assert_close(its, value, rtol=1e-4, atol=1e-6, msg=name)
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        assert largest > 0, name
        for key, gradient in gradients.items():
            torch.testing.assert_close(others[key], gradient, rtol=1e-3, atol=1e-5 * largest, msg=f"{name}: {key}")
