"""What a tower is: pixels or tokens in, features of the tower's own width out; nothing here is shared between the two sides.

Widths: an image tower returns ``V`` numbers per image, per patch and per class token; a text tower ``V`` numbers per text and per
token (its own V). What is learned between that and the shared width ``D`` belongs to :mod:`wholegrain.towers.heads.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import FeatureRows
from wholegrain.structure import JsonTable
from wholegrain.towers.branch_tokens import BranchTokens

if TYPE_CHECKING:
    from wholegrain.towers.mlp_branches import MlpBranches

NOTHING: frozenset[str] = frozenset()
Config: TypeAlias = JsonTable
"""A part of ``model.json``, or of another library's configuration: JSON, whose ``kind`` or library says which keys there are."""


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

    Attributes:
        width: V.
        tuned: what is trained, as :meth:`tune` takes it.
        retired: names of parameters that are kept but no longer used.
    """

    width: int
    fixed_batchnorm = False
    tuned = "all"
    retired: tuple[str, ...] = ()
    _config: Config  # what :meth:`config` says beside what may change later

    def config(self) -> Config:
        """JSON-able, with ``kind``; enough for :mod:`wholegrain.towers.io` to build the same architecture again."""
        return {**self._config, "tune": self.tuned}

    @property
    def frozen(self) -> bool:
        """No parameter is trained, so what the tower gives may be cached."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def stages(self) -> list[nn.Module]:
        """The parts of the tower from input to output; whatever is in none of them counts as before the first."""
        raise NotImplementedError

    def transformer_blocks(self) -> list[nn.Module]:
        """The blocks of a transformer, one a stage; none for other towers."""
        return [stage[0] if isinstance(stage, nn.ModuleList) else stage for stage in self.stages()]

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


class ImageTower(TunedModule):
    """Normalised float pixels ``[B, C, H, W]`` in, :class:`RawImage` out.

    Attributes:
        can_branch: it can hold class tokens (:meth:`add_branches`).
        fixed_size: it takes pictures of one size alone.
        branches: the class tokens that it holds, if any.
        mlp_branches: into which streams its last blocks were split, if they were.
    """

    can_branch = False
    fixed_size = False

    def __init__(self) -> None:
        super().__init__()
        self.branches: BranchTokens | None = None
        self.mlp_branches: MlpBranches | None = None

    if TYPE_CHECKING:

        def __call__(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage: ...

    def forward(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """Patches come if ``needs`` holds them; ``kept_BK``: from these patches alone, of a tower that is ``droppable``."""
        raise NotImplementedError

    @property
    def droppable(self) -> int:
        """How many patches there are of which some may be left out; 0 if none may."""
        return 0

    @property
    def pools_patches(self) -> bool:
        """Whether the pooled vector is a mean of the patches, so that a contrast of pooled vectors brings patches near texts, too."""
        return self.branches is None

    def add_branches(self, count: int, *, patches_see: str = "auto", legacy_plus_one: bool = False, noise: float = 0.02) -> None:
        """Puts H class tokens into the tower; see :mod:`wholegrain.towers.branch_tokens`.

        Raises:
            UserError: it cannot hold them, or has branches.
        """
        raise UserError("this image tower cannot have branches; choose a Vision Transformer for this recipe")

    def add_mlp_branches(self, count: int, blocks: int = 3) -> None:
        """Splits the last blocks into H streams; see :mod:`wholegrain.towers.mlp_branches`.

        Raises:
            UserError: it has no such blocks, or has branches.
        """
        self.add_branches(count)

    def branch_config(self) -> Config:
        """The part of :meth:`config` that says which branches were added."""
        branches = None if self.branches is None else self.branches.settings
        streams = {} if self.mlp_branches is None else {"mlp_branches": self.mlp_branches.settings()}
        return {"branches": branches, **streams}

    def resize(self, image_size: int) -> None:
        """Brings the tower to pictures of another size, by interpolated positions.

        Raises:
            UserError: it cannot be changed, or not to that size.
        """
        raise UserError(f"the picture size of a {type(self).__name__} cannot be changed; choose a Vision Transformer")


class TextTower(TunedModule):
    """Token rows ``[N, L]`` (trimmed) and their lengths in, :class:`RawText` out.

    Attributes:
        context_length: the longest row.
        true_length: a row gives the same result however far it is padded, so that trimmed rows may be run as they are. A tower
            without it pads every call to ``context_length`` itself and returns tokens for the given L only.
    """

    context_length: int
    true_length: bool

    if TYPE_CHECKING:

        def __call__(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText: ...

    def forward(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """Tokens come if ``needs`` holds them."""
        raise NotImplementedError

    def set_context(self, context: int, resample: Callable[[Tensor], Tensor]) -> None:
        """Brings the tower to rows of another length.

        Args:
            context: the new length.
            resample: makes of the table of positions ``[L, V]`` one of ``context`` rows, for towers that have a table.

        Raises:
            UserError: the tower cannot have that context.
        """
        raise NotImplementedError


@torch.no_grad()
def keeps_true_length(tower: TextTower, end_id: int, pad_id: int, tolerance: float = 1e-4) -> bool:
    """Whether a text tower gives the same for trimmed and for fully padded rows; the test that grants ``true_length``.

    Runs two short random rows at their true length and padded to the context, in eval mode, and compares pooled and token
    features relative to their size. ``end_id`` is the token that ends a text.
    """
    was_training, granted = tower.training, tower.true_length
    tower.eval()
    tower.true_length = True
    device = next(tower.parameters()).device
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
        tower.train(was_training)
        tower.true_length = granted
    return all(_close(a, b, tolerance) for a, b in _compared(pairs[0], pairs[1], length))


def _compared(short: RawText, full: RawText, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield short.pooled_NV, full.pooled_NV
    if short.tokens_NLV is not None and full.tokens_NLV is not None:
        yield short.tokens_NLV[:, :length], full.tokens_NLV[:, :length]


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6))
