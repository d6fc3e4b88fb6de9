"""Less memory for more time: inner activations are computed again in the backward pass instead of being kept."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_activations(network: nn.Module) -> int:
    """Make the blocks of a network recompute what happens inside them (Chen et al. 2016, arXiv 1604.06174).

    Only what passes from block to block is kept for the backward pass. Blocks are the composite children of the
    network's sequences (residual blocks, transformer blocks, dense blocks); a network without any counts as one
    block. Parameter names, results and gradients stay the same, and batch statistics are counted once (timm's
    ``set_grad_checkpointing`` counts them twice, and not every network has it).

    Returns:
        Number of blocks.
    """
    blocks = list(_blocks(network)) or [network]
    for block in blocks:
        block.forward = functools.partial(_recomputed, block, block.forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        inner = list(child.children())
        if isinstance(module, nn.Sequential | nn.ModuleList) and inner and not isinstance(child, nn.Sequential):
            yield child
        elif inner:
            yield from _blocks(child)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *arguments: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(
        forward,
        *arguments,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(block)),
    )


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Leave running statistics alone: the first forward pass has counted this batch already.

    A momentum of 0 keeps mean and variance to the bit, while the arguments stay those of the first pass. The counter
    is a stand-in and not None, which SyncBatchNorm refuses.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        counter = norm.num_batches_tracked
        norm.momentum, norm.num_batches_tracked = 0.0, None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
