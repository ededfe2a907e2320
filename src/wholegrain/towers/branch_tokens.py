"""Class-token branches: H class tokens that look at one image separately (Holistic CLIP, Wang et al., CVPR 2025, the CLS
variant).

The rule of the paper: a class token attends to itself and to all patches, never to another class token; patches attend to
everything. The mask here is additive, 0 or -inf. The released code builds a boolean mask that its transformer block casts to a
float, so that forbidden pairs get +1, a mild *bonus*, instead of -inf; ``legacy_plus_one`` reproduces that.

A warm start should begin as the base model, so two things differ from the paper unless asked for:

* On a tower that pools a class token, the H tokens start as copies of it plus noise, and a patch sees each of them with an
  additive -log H (``patches_see="shared"``): H equal copies then weigh as much as the one they replace, and with ``noise=0``
  every branch equals the base's vector exactly. ``patches_see="all"`` is the paper's rule (it trains from scratch, where nothing
  has to be kept).
* On a mean-pooled tower, branch h is the mean over patches plus ``gate_h * (output of class token h)``. Gates start at zero plus
  noise, and patches do not see the class tokens (``patches_see="none"``), so the base's patches and mean stay what they were.

The paper gives each class token a row of the position table; here that row is summed into the token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError

PATCHES_SEE = ("auto", "shared", "all", "none")


def branch_mask(branches: int, rest: int, patches_see: str = "all", legacy_plus_one: bool = False) -> Tensor:
    """Additive attention mask ``[H + rest, H + rest]``, rows are queries, class tokens first.

    Args:
        branches: H class tokens.
        rest: all other tokens (patches, registers).
        patches_see: ``all``: no restriction; ``shared``: -log H on each class token; ``none``: class tokens are seen by
            themselves only.
        legacy_plus_one: forbidden class-class pairs get +1 instead of -inf (the released code's behaviour).

    Example:
        >>> branch_mask(2, 1).tolist()
        [[0.0, -inf, 0.0], [-inf, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    mask = torch.zeros(branches + rest, branches + rest)
    mask[:branches, :branches] = 1.0 if legacy_plus_one else -math.inf
    mask.fill_diagonal_(0.0)
    mask[branches:, :branches] = {"all": 0.0, "shared": -math.log(branches), "none": -math.inf}[patches_see]
    return mask


class BranchTokens(nn.Module):
    """The H class tokens of a tower, their gates (mean-pooled towers only) and their attention mask.

    Args:
        count: H >= 1.
        rest: tokens in the sequence that are not branch tokens.
        start_V: the class token that the H copies start from, with its position row; ``None`` for a mean-pooled tower.
        width: V of the tokens inside the tower.
        patches_see: see :func:`branch_mask`; ``auto`` takes ``shared`` for copies and ``none`` for a mean-pooled tower.
        legacy_plus_one: see :func:`branch_mask`.
        noise: copies get noise of this share of the token's root mean square, gates this standard deviation.
        read_width: V of what the tower gives, where it is not the width inside (a mean-pooled tower that reads moments).
    """

    mask_SS: Tensor

    def __init__(
        self,
        count: int,
        rest: int,
        start_V: Tensor | None,
        width: int,
        patches_see: str = "auto",
        legacy_plus_one: bool = False,
        noise: float = 0.02,
        read_width: int | None = None,
    ) -> None:
        super().__init__()
        if count < 1 or patches_see not in PATCHES_SEE:
            allowed = ", ".join(PATCHES_SEE)
            raise UserError(f"branches is {count} and patches_see {patches_see!r}; use branches >= 1 and one of {allowed}")
        if patches_see == "auto":
            patches_see = "none" if start_V is None else "shared"
        self.settings: dict[str, object] = {"count": count, "patches_see": patches_see, "legacy_plus_one": legacy_plus_one}
        self.count = count
        self.replaces_class = start_V is not None
        if start_V is None:
            tokens, gate = torch.randn(count, width) * width**-0.5, torch.randn(count, read_width or width) * noise
            self.gate_HV: nn.Parameter | None = nn.Parameter(gate)
        else:
            start_V = start_V.detach()
            tokens = start_V + noise * start_V.square().mean().sqrt() * torch.randn_like(start_V.expand(count, -1))
            self.gate_HV = None
        self.tokens_HV = nn.Parameter(tokens)
        self.register_buffer("mask_SS", branch_mask(count, rest, patches_see, legacy_plus_one), persistent=False)

    def combined_mask(self, near_SS: Tensor | None) -> Tensor:
        """The mask of the whole sequence, on a tower whose other tokens have a mask of their own.

        A class token that the branches replace is the first of those other tokens, and leaves with its row and column.
        """
        if near_SS is None:
            return self.mask_SS
        rest = len(self.mask_SS) - self.count
        mask_SS = self.mask_SS.clone()
        mask_SS[self.count :, self.count :] += near_SS[-rest:, -rest:]
        return mask_SS

    def prepend(self, tokens_BSV: Tensor) -> Tensor:
        """The sequence with the H class tokens in front."""
        return torch.cat([self.tokens_HV.to(tokens_BSV.dtype).expand(len(tokens_BSV), -1, -1), tokens_BSV], dim=1)

    def read(self, outputs_BHV: Tensor, pooled_BV: Tensor | None) -> Tensor:
        """The H raw branches, from the class tokens' outputs and, on a mean-pooled tower, the mean over patches."""
        if self.gate_HV is None:
            return outputs_BHV
        assert pooled_BV is not None
        return pooled_BV[:, None] + self.gate_HV * outputs_BHV
