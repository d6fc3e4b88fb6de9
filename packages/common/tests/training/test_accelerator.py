import pytest
import torch

from cxr_common.training.accelerator import pinned, start
from cxr_data.errors import BadInput


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_launchers_that_divide_the_weights_are_refused(name, monkeypatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(BadInput, match=name):
        start("fp32")


def test_tensors_for_the_cpu_stay_as_they_are() -> None:
    tensor = torch.ones(3)
    assert pinned(tensor, torch.device("cpu")) is tensor
