"""Recomputed activations: of each block of a tower only its input is kept, and the block runs again in the backward pass.

Chen et al., *Training deep nets with sublinear memory cost*, 2016, arXiv 1604.06174. The values are those of one pass, random state
included, so the step is the same; it takes about one more forward pass of the towers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

from wholegrain.towers.model import Model
from wholegrain.towers.sources.timm import TimmImageTower

Given = ParamSpec("Given")
Made = TypeVar("Made")


@contextmanager
def recomputed(model: Model, wanted: bool = True) -> Iterator[None]:
    """While this context is open, the blocks of both towers are recomputed where they are trained.

    Transformers of every kind, and timm's networks as timm does it. A tower without blocks (a recurrent reader) stays as it is.
    Parameters keep their names, and copies that were made before (a teacher) stay as they are.
    """
    changed = [block for tower in (model.image_tower, model.text_tower) for block in tower.transformer_blocks()] if wanted else []
    tower = model.image_tower
    trunks = [tower.net] if wanted and isinstance(tower, TimmImageTower) and not tower.is_vit else []  # other parts than blocks
    try:
        for block in changed:
            block.forward = partial(_again, block.forward)
        for net in trunks:
            net.set_grad_checkpointing(True)
        yield
    finally:
        for block in changed:
            del block.forward  # the class's own is there again
        for net in trunks:
            net.set_grad_checkpointing(False)


def _again(forward: Callable[Given, Made], *args: Given.args, **kwargs: Given.kwargs) -> Made:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
