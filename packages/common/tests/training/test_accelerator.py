import pytest
import torch

from cxr_common.training.accelerator import pinned, start, uses_cuda
from cxr_data.errors import BadInput


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_launchers_that_divide_the_weights_are_refused(name, monkeypatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(BadInput, match=name):
        start("fp32")


def test_tensors_for_the_cpu_stay_as_they_are() -> None:
    tensor = torch.ones(3)
    assert pinned(tensor, torch.device("cpu")) is tensor


@pytest.mark.parametrize(("asked", "cuda"), [(None, True), ("true", False), ("1", False), ("false", True)])
def test_a_gpu_is_left_alone_where_accelerate_is_told_so(asked, cuda, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    if asked is not None:
        monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    assert uses_cuda() == cuda
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not uses_cuda()
