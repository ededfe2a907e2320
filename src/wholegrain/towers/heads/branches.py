"""Heads with several vectors an image: Holistic CLIP's branches (Wang et al., CVPR 2025), and where such vectors come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures
from wholegrain.towers.base import NOTHING, Config, ImageTower, RawImage
from wholegrain.towers.heads.base import Head, HeadSettings, Widths, required


class BranchReadout(nn.Module):
    """H raw branches from patches alone, for towers that cannot hold class tokens (CNNs) or must not change (frozen ones).

    Branch h is ``pooled + gate_h * sum_p a_hp patch_p``: another weighting of the patches, with the channels in groups that are
    weighted apart (the heads of attention pooling). Ours, not the paper's, which has Vision Transformers only. Gates start at
    zero plus noise, so every branch starts as the base's own vector.
    """

    def __init__(self, width: int, branches: int, noise: float = 0.02, key_width: int = 64) -> None:
        super().__init__()
        self.groups = next(n for n in (8, 4, 2, 1) if width % n == 0)
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, self.groups * key_width)
        self.queries_HGK = nn.Parameter(torch.randn(branches, self.groups, key_width) * key_width**-0.5)
        self.gate_HV = nn.Parameter(torch.randn(branches, width) * noise)

    def forward(self, pooled_BV: Tensor, patches_BPV: Tensor) -> Tensor:
        """``[B, V]`` and ``[B, P, V]`` to ``[B, H, V]``."""
        B, P, V = patches_BPV.shape
        keys_BPGK = self.keys(self.norm(patches_BPV)).view(B, P, self.groups, -1)
        weight_BHGP = torch.einsum("hgk,bpgk->bhgp", self.queries_HGK, keys_BPGK).softmax(-1)
        values_BPGC = patches_BPV.view(B, P, self.groups, -1)
        seen_BHV = torch.einsum("bhgp,bpgc->bhgc", weight_BHGP, values_BPGC).reshape(B, -1, V)
        return pooled_BV[:, None] + self.gate_HV * seen_BHV


@dataclass(frozen=True)
class TokenSettings(HeadSettings):
    """The settings of heads with several vectors an image.

    Attributes:
        source: where they come from: ``tokens`` (class tokens inside the image tower), ``readout`` (learned attention read-outs of the
            patches, for CNNs and frozen towers), ``mlp`` (streams of a Vision Transformer's last blocks, see
            :mod:`wholegrain.towers.mlp_branches`; branches alone), ``auto`` (tokens where the tower can hold and train them).
        patches_see, legacy_plus_one: see :mod:`wholegrain.towers.branch_tokens`.
        noise: of the start, see there; a head that is there already has started.
    """

    source: str = "auto"
    patches_see: str = "auto"
    legacy_plus_one: bool = False
    noise: float = 0.02
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"noise": (0, 100)}

    def __post_init__(self) -> None:
        if self.source not in ("auto", "tokens", "readout", "mlp"):
            raise UserError(f"head_settings.source is {self.source!r}; use auto, tokens, readout or mlp")
        super().__post_init__()


@dataclass(frozen=True)
class BranchSettings(TokenSettings):
    """Attributes:
        branches: H (``model.branches`` in recipes).
        branch_blocks: K, the last blocks of which ``mlp`` makes streams; 0 is the paper's three, or all of a tower with fewer.
    """

    branches: int = 5
    branch_blocks: int = 0
    ranges: ClassVar[dict[str, tuple[float, float]]] = {**TokenSettings.ranges, "branches": (1, 1024), "branch_blocks": (0, 1024)}


class BranchHead(Head):
    """Holistic CLIP: H raw branches through one shared projection; ``pooled`` is the mean of the *unit* branches.

    The paper scores a pair by the mean of the H branches' cosines. That mean is linear, so it equals the dot product of a unit
    text vector with the mean of the unit branches, *not* renormalised: an image whose branches disagree has a shorter mean. A
    metric that normalises ``pooled_BD`` drops that length: nothing changes when ranking texts for an image, but ranking images
    for a text may.
    """

    kind = "branches"
    gives = frozenset({"branches"})
    Settings = BranchSettings
    saved: ClassVar[dict[str, str]] = {"branches": "branches", "source": "source"}
    settings: BranchSettings

    def __init__(self, widths: Widths, settings: BranchSettings | None = None) -> None:
        super().__init__(widths, settings)
        settings = self.settings
        readout = settings.source == "readout"
        self.readout = BranchReadout(widths.image, settings.branches, settings.noise) if readout else None

    @classmethod
    def from_settings(cls, widths: Widths, settings: BranchSettings, tower: ImageTower) -> Self:
        """A new head; class tokens or streams are put into the image tower where branches come from there."""
        source = prepare_tower(tower, settings, settings.branches, settings.branch_blocks)
        return cls(widths, replace(settings, source=source))

    @property
    def branches(self) -> int:
        """H, by which evaluation and reports know a model with branches."""
        return self.settings.branches

    def settings_with(self, tower: ImageTower) -> BranchSettings:
        """With what the tower says of its tokens or streams."""
        blocks = 0 if tower.mlp_branches is None else tower.mlp_branches.blocks
        return replace(self.settings, **tokens_in(tower), branch_blocks=blocks)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Read-outs need patches; class tokens come with the tower."""
        return needs | {"patches"} if self.readout is not None else needs

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """All branches, always; patches if asked for."""
        if self.readout is not None:
            classes_BHV = self.readout(raw.pooled_BV, required(raw.patches_BPV))
        else:
            classes_BHV = required(raw.classes_BHV)
        branches_BHD = self.image(classes_BHV)
        pooled_BD = nn.functional.normalize(branches_BHD.float(), dim=-1).mean(1).to(branches_BHD.dtype)
        return ImageFeatures(pooled_BD, branches_BHD, *self._patches(raw, needs))


def prepare_tower(tower: ImageTower, settings: TokenSettings, count: int, blocks: int | None = None) -> str:
    """Puts ``count`` class tokens, or streams, into an image tower where they belong there, and says where branches come from.

    ``blocks``: in how many blocks streams part; ``None`` for a head that cannot have streams.
    """
    source, see, legacy = settings.source, settings.patches_see, settings.legacy_plus_one
    if source == "mlp" and (blocks is None or tower.frozen):
        why = "the head's tokens are no branches" if blocks is None else "the image tower is frozen"
        raise UserError(f"source = 'mlp' makes branches of the image tower's own blocks, and {why}; use source = 'auto'")
    if source == "auto":
        source = "tokens" if tower.can_branch and not tower.frozen else "readout"
    if source != "tokens" and (see != "auto" or legacy):
        raise UserError(f"patches_see and legacy_plus_one are of class tokens, and here source is '{source}'; leave them out")
    if source != "mlp" and blocks:
        raise UserError(f"branch_blocks is of source = 'mlp', and here source is '{source}'; leave it out")
    if source == "tokens":
        tower.add_branches(count, patches_see=see, legacy_plus_one=legacy, noise=settings.noise)
    if source == "mlp":
        tower.add_mlp_branches(count, blocks or min(3, len(tower.stages())))
    return source


def tokens_in(tower: ImageTower) -> Config:
    """How the class tokens in an image tower were made: fields of :class:`TokenSettings`; empty for a tower without any."""
    return {} if tower.branches is None else {k: v for k, v in tower.branches.settings.items() if k != "count"}
