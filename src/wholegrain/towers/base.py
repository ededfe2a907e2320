"""What a tower is: pixels or tokens in, features of the tower's own width out; nothing here is shared between the two sides.

Widths: an image tower returns ``V`` numbers per image, per patch and per class token; a text tower ``V`` numbers per text and per
token (its own V). What is learned between that and the shared width ``D`` belongs to :mod:`wholegrain.towers.heads.registry`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import FeatureRows

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RawImage(FeatureRows):
    """What an image tower saw, before any head.

    Attributes:
        pooled_BV: one vector per image.
        patches_BPV: one vector per patch after the tower's last normalisation, row-major over ``grid``; ``None`` unless asked
            for.
        classes_BHV: one vector per branch; ``None`` for a tower without branches (class tokens, or streams of its last blocks).
        grid: patch rows and columns.
    """

    pooled_BV: Tensor
    patches_BPV: Tensor | None = None
    classes_BHV: Tensor | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class RawText(FeatureRows):
    """What a text tower read, before any head.

    Attributes:
        pooled_NV: one vector per text.
        tokens_NLV: one vector per token after the last normalisation; ``None`` unless asked for.
        mask_NL: True at real tokens; always there.
    """

    pooled_NV: Tensor
    tokens_NLV: Tensor | None
    mask_NL: Tensor


class ImageTower(Protocol):
    """Normalised float pixels ``[B, C, H, W]`` in, :class:`RawImage` out; ``needs`` may hold ``patches``."""

    width: int
    can_branch: bool

    def __call__(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING) -> RawImage: ...
    def add_branches(self, count: int, *, patches_see: str, legacy_plus_one: bool, noise: float) -> None: ...
    def add_mlp_branches(self, count: int, blocks: int = 3) -> None: ...
    def tune(self, how: str) -> None: ...
    def config(self) -> dict[str, Any]:
        """JSON-able, with ``kind``; enough to build the same architecture again."""
        ...


class TextTower(Protocol):
    """Token rows ``[N, L]`` (trimmed) and their lengths in, :class:`RawText` out; ``needs`` may hold ``tokens``.

    ``true_length`` says that a row gives the same result however far it is padded, so that trimmed rows may be run as they are.
    A tower without it pads every call to ``context_length`` itself and returns tokens for the given L only.
    """

    width: int
    true_length: bool
    context_length: int

    def __call__(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText: ...
    def tune(self, how: str) -> None: ...
    def config(self) -> dict[str, Any]: ...


def real_tokens(length_N: Tensor, count: int) -> Tensor:
    """bool ``[N, count]``, True at the first ``length_N`` positions of each row.

    Example:
        >>> real_tokens(torch.tensor([1, 3]), 3).tolist()
        [[True, False, False], [True, True, True]]
    """
    return torch.arange(count, device=length_N.device) < length_N[:, None]


def keep_patches(x_BSV: Tensor, kept_BK: Tensor, first: int) -> Tensor:
    """The ``first`` tokens and, of the patches behind them, those that each image keeps."""
    index_BKV = (kept_BK + first)[..., None].expand(-1, -1, x_BSV.shape[-1])
    return torch.cat([x_BSV[:, :first], x_BSV.gather(1, index_BKV)], dim=1)


def masked_mean(tokens_NLV: Tensor, mask_NL: Tensor) -> Tensor:
    """Mean over the real tokens, ``[N, V]``; zero for a row without any. What padded positions hold has no influence, NaN too."""
    kept = tokens_NLV.masked_fill(~mask_NL[..., None], 0.0)
    return kept.sum(1) / mask_NL.sum(1, keepdim=True).clamp(min=1).to(kept.dtype)


class TunedModule(nn.Module):
    """A tower of which all, none or the last stages are trained.

    Frozen stages also stay in eval mode (no dropout, fixed BatchNorm statistics), so a frozen tower gives the same features in
    every epoch and they may be cached. With ``fixed_batchnorm``, BatchNorm stays in eval mode in tuned stages, too.
    """

    fixed_batchnorm = False
    tuned = "all"
    retired: tuple[str, ...] = ()  # parameters that are kept but no longer used

    def stages(self) -> list[nn.Module]:
        """The parts of the tower from input to output; whatever is in none of them counts as before the first."""
        raise NotImplementedError

    def tune(self, how: str) -> None:
        """Sets what is trained: ``all``, ``none``, or ``last:N`` (the last N stages and all that follows them)."""
        kept = self._kept(how)
        self.tuned = how
        for parameter in self.parameters():
            parameter.requires_grad_(how == "all")
        for stage in kept:
            for parameter in stage.parameters():
                parameter.requires_grad_(True)
        for name in self.retired:
            self.get_parameter(name).requires_grad_(False)
        self.train(self.training)

    def _kept(self, how: str) -> list[nn.Module]:
        stages = self.stages()
        if how == "all":
            return stages
        if how == "none":
            return []
        head, _, number = how.partition(":")
        if head != "last" or not number.isdigit() or not 1 <= int(number) <= len(stages):
            raise UserError(f"tune is {how!r}; use 'all', 'none' or 'last:N' with N from 1 to {len(stages)}")
        return stages[-int(number) :]

    def train(self, mode: bool = True) -> TunedModule:
        """Training mode for tuned stages only."""
        super().train(mode and self.tuned == "all")
        if mode and self.tuned != "all":
            self.training = True
            for stage in self._kept(self.tuned):
                stage.train(True)
        if self.fixed_batchnorm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


@torch.no_grad()
def keeps_true_length(tower: TextTower, end_id: int, pad_id: int, tolerance: float = 1e-4) -> bool:
    """Whether a text tower gives the same for trimmed and for fully padded rows; the test that grants ``true_length``.

    Runs two short random rows at their true length and padded to the context, in eval mode, and compares pooled and token
    features relative to their size. ``end_id`` is the token that ends a text.
    """
    module = cast(nn.Module, tower)
    was_training, granted = module.training, tower.true_length
    module.eval()
    tower.true_length = True
    device = next(module.parameters()).device
    length = min(7, tower.context_length - 1)
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(3, max(4, end_id), (2, length), generator=random)
    rows[:, -1] = end_id
    padded = torch.full((2, tower.context_length), pad_id)
    padded[:, :length] = rows
    lengths = torch.full((2,), length).to(device)
    try:
        pairs = [tower(x.to(device), lengths, frozenset({"tokens"})) for x in (rows, padded)]
    finally:
        module.train(was_training)
        tower.true_length = granted
    return all(_close(a, b, tolerance) for a, b in _compared(pairs[0], pairs[1], length))


def _compared(short: RawText, full: RawText, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield short.pooled_NV, full.pooled_NV
    if short.tokens_NLV is not None and full.tokens_NLV is not None:
        yield short.tokens_NLV[:, :length], full.tokens_NLV[:, :length]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))
