"""Every option of every command says what it does."""

import dataclasses
import importlib

import pytest

from cxr_data.command_line.help import options

CONFIGS = {
    "cxr_ssl.config": ("PretrainConfig",),
    "cxr_distill.config": ("FinetuneConfig", "DistillConfig"),
    "cxr_eval.config": ("EvaluateConfig",),
    "cxr_deploy.config": ("ExportConfig", "PredictConfig", "BenchmarkConfig"),
    "cxr_recipes.config": ("ReproduceConfig",),
    "cxr_recipes.gpu_check.config": ("GpuCheckConfig",),
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CONFIGS.items() for name in names])
def test_every_option_has_a_text(module, name) -> None:
    config = getattr(importlib.import_module(module), name)
    assert isinstance(config, type)
    assert dataclasses.is_dataclass(config)
    assert [option.name for option in options(config) if not option.text] == []
