"""Compiled blocks: torch.compile on each block of both towers, not on the whole model.

One block is compiled and serves all that are like it, so it takes seconds where a whole model takes minutes; attention over packed texts
stays as it is. Texts have another number of tokens in every step, so their code is made for any number from the start, on an
example that is always the same: what a run computes does not depend on the step at which it was resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from wholegrain.towers.blocks import Packed, ResidualBlock
from wholegrain.towers.model import Model

HALVES = ("qkv", "after_attention")  # of a block: what is before attention and what is behind it


@contextmanager
def compiled(model: Model, wanted: bool, cast: Callable[[], torch.autocast]) -> Iterator[None]:
    """While this context is open, the blocks of both towers are compiled; parameters keep their names.

    Args:
        model: on its device, as it will be trained.
        wanted: otherwise nothing happens.
        cast: a fresh autocast context, as in training.
    """
    towers = ((model.image_tower, False), (model.text_tower, True)) if wanted else ()
    changed = [(block, dynamic) for tower, dynamic in towers for block in tower.transformer_blocks()]
    try:
        for block, dynamic in changed:
            if isinstance(block, ResidualBlock):
                for half in HALVES:
                    setattr(block, half, torch.compile(getattr(block, half), dynamic=dynamic))
            else:
                block.compile(dynamic=dynamic)
        for block, dynamic in changed:
            if dynamic and isinstance(block, ResidualBlock):
                _try_out(block, cast)
        yield
    finally:
        for block, _ in changed:
            if isinstance(block, ResidualBlock):
                for half in HALVES:
                    block.__dict__.pop(half, None)  # the class's own is there again
            else:
                block._compiled_call_impl = None


def _try_out(block: ResidualBlock, cast: Callable[[], torch.autocast]) -> None:
    """Compiles on eight texts of sixteen tokens, forward and backward, all tokens and the ends alone."""
    weight = block.ln_1.weight
    assert isinstance(weight, nn.Parameter)
    tokens_NL = torch.arange(8 * 16, device=weight.device).unflatten(0, (8, 16))
    packed = Packed.of(tokens_NL, torch.full((8,), 16, device=weight.device))
    x_TV = torch.zeros(tokens_NL.numel(), len(weight), device=weight.device, requires_grad=True)
    for pooled_only in (False, True):
        with cast():
            y = block(x_TV, packed, pooled_only)
        torch.autograd.grad(y.float().sum(), x_TV)
