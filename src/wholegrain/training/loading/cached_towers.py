"""What frozen towers make of a batch, kept on disk: the next model with the same towers is not run on it again.

Training and validation keep the features of a whole data set (:mod:`wholegrain.training.loading.frozen`). What an evaluation asks is its tasks'
affair, so here each call of a tower is kept by what went into it: the numbers are those of the call itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from wholegrain.towers.base import NOTHING, RawImage, RawText, TunedModule
from wholegrain.towers.feature_files import features_name, read_features, tower_digest, write_features
from wholegrain.towers.model import Model

MOST_BYTES = 2**26
"""Of a call's features; larger ones (patches of many pictures) are made anew."""


@contextmanager
def cached_towers(model: Model, folder: Path | None) -> Iterator[None]:
    """While this is open, frozen towers of the model read from ``folder`` what they have made before, and keep there what is new.

    Args:
        folder: may be that of ``--cache``; ``None`` changes nothing.
    """
    towers: list[tuple[str, TunedModule, type]] = [("image", model.image_tower, RawImage), ("text", model.text_tower, RawText)]
    with ExitStack() as stack:
        for name, tower, kind in towers:
            if folder is not None and tower.frozen:
                calls = _Calls(tower, folder, f"{name}-calls", kind)
                tower.forward = calls
                stack.callback(delattr, tower, "forward")
        yield


class _Calls:
    """Stands for a tower's ``forward``."""

    def __init__(self, tower: TunedModule, folder: Path, name: str, kind: type) -> None:
        self.forward, self.folder, self.name, self.kind = tower.forward, folder, name, kind
        self.tower = tower_digest(tower)

    def __call__(self, *given: object) -> RawImage | RawText:
        tensors = [part for part in given if isinstance(part, Tensor)]
        needs = next((part for part in given if isinstance(part, frozenset)), NOTHING) & {"patches", "tokens"}
        device = tensors[0].device
        if torch.is_grad_enabled() or torch.is_autocast_enabled(device.type):
            return self.forward(*given)
        path = self.folder / features_name(self.name, self.tower, [sorted(needs), device.type], tensors)
        found = read_features(path, 2 * MOST_BYTES)
        if found is not None:
            grid = tuple(found.pop("grid").tolist())
            more = {"tokens_NLV": None} if self.kind is RawText else {"grid": grid if any(grid) else None}
            return self.kind(**{**more, **{name: value.to(device) for name, value in found.items()}})
        made = self.forward(*given)
        parts = made.tensors()
        if sum(value.numel() * value.element_size() for value in parts.values()) <= MOST_BYTES:
            grid = torch.tensor(getattr(made, "grid", None) or (0, 0))
            write_features(path, {name: value.cpu() for name, value in parts.items()} | {"grid": grid})
        return made
