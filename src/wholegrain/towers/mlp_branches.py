"""MLP branches: in the last K blocks of a Vision Transformer the second matrix of the MLP is there H times (Holistic CLIP,
Wang et al., CVPR 2025, arXiv 2412.00440, the MLP variant, and its released code, where K is 3).

In the first of these blocks one picture becomes H streams: attention, norms and the MLP's first matrix work once, and every
copy of the second matrix adds its own output to the same residual. From there on the streams are H sequences of their own,
folded into the batch (row b * H + h), that go through the same attention and the same first matrices, and each through its
own copy of the second. There is no router: copy h always serves stream h. The last LayerNorm, the tower's pooling and the
projection are shared.

::

    x [B, S, V] -> block K:  r = x + attention(x);  stream h = r + W2_h act(W1 norm(r))      [B H, S, V]
                -> blocks K-1 .. 1 on [B H, S, V], W2_h for stream h                          -> H class tokens, H sets of patches

Every copy starts as the pretrained matrix, exactly: at the start all branches equal the base's vector (the paper trains from
scratch, with copies that differ by chance). What tells them apart is that each is contrasted with other texts, so bind texts
to branches by role or place; texts that choose freely among equal branches all choose the first.

Patches are the mean over the branches' H grids, so that losses and heat maps on patches work as on one; of their H class
tokens a branch each is made. Costs: (H - 1) K (F V + V) parameters (F the MLP's width), and the work of all but the first
changed block times H.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.towers.blocks import ResidualBlock


@dataclass(frozen=True)
class MlpBranches:
    """How a tower was split.

    Attributes:
        count: H streams.
        blocks: K last blocks that have H second matrices.
    """

    count: int
    blocks: int = 3

    def settings(self) -> dict[str, object]:
        """For ``add_mlp_branches(**settings)``."""
        return asdict(self)

    def split(self, x: Tensor) -> Tensor:
        """``[B H, ...]`` to ``[B, H, ...]``."""
        return x.unflatten(0, (-1, self.count))


class BranchLinear(nn.Module):
    """H linear maps that start as copies of one.

    Args:
        layer: the map.
        count: H.
        splits: each row of the input goes through all maps, ``[B, S, F]`` to ``[B H, S, V]``; else row b H + h through map h.

    Example:
        >>> layer, x = nn.Linear(4, 2), torch.randn(3, 5, 4)
        >>> BranchLinear(layer, 2, splits=True)(x).shape, BranchLinear(layer, 3, splits=False)(x).shape
        (torch.Size([6, 5, 2]), torch.Size([3, 5, 2]))
    """

    def __init__(self, layer: nn.Linear, count: int, splits: bool) -> None:
        super().__init__()
        self.count, self.splits = count, splits
        self.weight_HVF = nn.Parameter(layer.weight.detach().repeat(count, 1, 1))
        bias_V = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias
        self.bias_HV = nn.Parameter(bias_V.detach().repeat(count, 1))

    def forward(self, x_RSF: Tensor) -> Tensor:
        """See the class."""
        length = x_RSF.shape[1]
        if self.splits:
            y = nn.functional.linear(x_RSF, self.weight_HVF.flatten(0, 1), self.bias_HV.flatten())
            return y.unflatten(2, (self.count, -1)).transpose(1, 2).flatten(0, 1)
        by_branch = x_RSF.unflatten(0, (-1, self.count)).transpose(0, 1).flatten(1, 2)
        y = torch.baddbmm(self.bias_HV[:, None], by_branch, self.weight_HVF.mT)
        return y.unflatten(1, (-1, length)).transpose(0, 1).flatten(0, 1)


class SplitTimmBlock(nn.Module):
    """A timm block from which H streams come out, ``[B, S, V]`` to ``[B H, S, V]``; its MLP ends in a :class:`BranchLinear`."""

    def __init__(self, block: Block, count: int) -> None:
        super().__init__()
        self.block = block
        self.count = count

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As the block's."""
        block = self.block
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        return x.repeat_interleave(self.count, 0) + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


def split_blocks(blocks: nn.ModuleList | nn.Sequential, count: int, changed: int) -> MlpBranches:
    """Splits a tower's list of blocks, in place: H second matrices in the last ``changed`` blocks.

    Raises:
        UserError: impossible numbers, or blocks whose MLP has no second matrix that is known.
    """
    if count < 1 or not 1 <= changed <= len(blocks):
        raise UserError(
            f"branches is {count} in the last {changed} blocks; use 1 or more, and between 1 and {len(blocks)} blocks"
        )
    first = len(blocks) - changed
    for block in blocks[first:]:
        _second_matrix(block)  # all or nothing
    for place in range(first, len(blocks)):
        block, splits = blocks[place], place == first
        mlp, name = _second_matrix(block)
        setattr(mlp, name, BranchLinear(getattr(mlp, name), count, splits))
        if splits and isinstance(block, Block):
            blocks[place] = SplitTimmBlock(block, count)
    return MlpBranches(count, changed)


def _second_matrix(block: nn.Module) -> tuple[nn.Module, str]:
    """The MLP that holds it, and its name there."""
    name = "fc2" if type(block) is Block else "c_proj" if type(block) is ResidualBlock else ""
    mlp = getattr(block, "mlp", block)
    if not name or not isinstance(getattr(mlp, name, None), nn.Linear):
        kind = type(block).__name__
        raise UserError(
            f"this image tower's blocks ({kind}) have no MLP that branches can be made of; use source = 'tokens' or 'readout'"
        )
    return mlp, name
