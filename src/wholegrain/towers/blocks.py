"""The residual blocks of open_clip's transformers, run on no more tokens than are needed.

Three things are left out, and the result is the same to rounding:

* *Padding.* A batch of texts is one packed list of tokens, ``[T, V]``, through every norm and every matrix; only attention, a small part
  of the work, sees it as ``[N, L]`` rows. That takes a causal tower: what follows a text's end is never looked at.
* *What was read before.* In a causal tower a token's vector depends on the tokens up to it, so texts that begin alike share those
  vectors: each distinct beginning is one token of the list. Captions begin with "a", and a hard negative is its caption up to
  the word that was changed.
* *What nobody reads.* If only one vector per sequence is wanted (the end of a text, the class token of an image), the last block asks
  for that token alone: keys and values of all tokens, but one query, one MLP. It saves ten twelfths of a block.

Parameters keep open_clip's names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.transformer import Attention, ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from wholegrain.towers.attention_kernel import attention_kernel


@dataclass(frozen=True)
class Dense:
    """Sequences of one length, ``[B, S, V]``.

    Attributes:
        mask_SS: additive, or ``None``.
        classes: how many tokens at the beginning are pooled.
    """

    mask_SS: Tensor | None = None
    classes: int = 1

    def pooled(self, x_BSV: Tensor) -> Tensor:
        """The class tokens."""
        return x_BSV[:, : self.classes]

    def attention(self, q_BQV: Tensor, k_BSV: Tensor, v_BSV: Tensor, heads: int, pooled_only: bool) -> Tensor:
        """Attention of all tokens, or of those that are pooled."""
        mask = None if self.mask_SS is None else self.mask_SS.to(q_BQV.dtype)
        mask = mask[: self.classes] if pooled_only and mask is not None else mask
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q_BQV, k_BSV, v_BSV))
        return _attend(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Packed:
    """Causal sequences of any lengths as one list of their distinct beginnings: ``[T, V]``.

    Attributes:
        node_NL: the place in the list of each token of padded rows; 0 at padding.
        cell_T: for each place of the list, a token in the N * L padded ones that it stands for.
        end_N: the place of each sequence's last token, which is the one that is pooled.
        real_NL: False at padding.

    Example:
        >>> packed = Packed.of(torch.tensor([[1, 5, 6, 2], [1, 5, 2, 0]]), torch.tensor([4, 3]))
        >>> packed.node_NL.tolist(), packed.end_N.tolist()  # "1 5" is read once
        ([[0, 1, 3, 4], [0, 1, 2, 0]], [4, 2])
    """

    node_NL: Tensor
    cell_T: Tensor
    end_N: Tensor
    real_NL: Tensor

    @classmethod
    def of(cls, tokens_NL: Tensor, length_N: Tensor) -> Packed:
        """From rows of token ids and their lengths, at least 1."""
        N, L = tokens_NL.shape
        real_NL = torch.arange(L, device=length_N.device) < length_N[:, None]
        sorted_UL, row_N = torch.unique(tokens_NL.masked_fill(~real_NL, -1), dim=0, return_inverse=True)
        new_UL = sorted_UL >= 0  # rows that begin alike stand together, so each needs to be compared with the one before only
        new_UL[1:] &= (sorted_UL[1:] != sorted_UL[:-1]).cumsum(1) > 0
        number_UL = new_UL.flatten().cumsum(0).unflatten(0, new_UL.shape) - 1
        node_UL = number_UL.where(new_UL, -1).cummax(0).values.clamp(min=0)
        node_NL = node_UL[row_N].masked_fill(~real_NL, 0)
        row_U = row_N.new_zeros(len(sorted_UL)).scatter_(0, row_N, torch.arange(N, device=row_N.device))
        cell_T = new_UL.flatten().nonzero().squeeze(1)
        cell_T = row_U[cell_T // L] * L + cell_T % L
        return cls(node_NL, cell_T, node_NL.gather(1, length_N[:, None] - 1).squeeze(1), real_NL)

    def pad(self, x_TV: Tensor) -> Tensor:
        """Padded rows ``[N, L, V]``; padding has the first place's vector."""
        return x_TV.index_select(0, self.node_NL.flatten()).unflatten(0, self.node_NL.shape)

    def pooled(self, x_TV: Tensor) -> Tensor:
        """The last tokens, ``[N, V]``."""
        return x_TV.index_select(0, self.end_N)

    def attention(self, q_QV: Tensor, k_TV: Tensor, v_TV: Tensor, heads: int, pooled_only: bool) -> Tensor:
        """Causal attention of all tokens, or of those that are pooled."""
        padded = self.pad(torch.cat([k_TV, v_TV] if pooled_only else [q_QV, k_TV, v_TV], 1))
        rows = [q_QV[:, None]] if pooled_only else []
        rows += padded.chunk(2 if pooled_only else 3, dim=-1)
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in rows)
        if pooled_only:
            return _attend(q, k, v, attn_mask=self.real_NL[:, None, None]).transpose(1, 2).flatten(1)
        seen_NLV = _attend(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return seen_NLV.flatten(0, 1).index_select(0, self.cell_T)


def _attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    with attention_kernel(q.device, k.shape[-2]):
        return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)


class ResidualBlock(nn.Module):
    """One residual block of open_clip, on :class:`Dense` or :class:`Packed` tokens."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: Tensor, layout: Dense | Packed, pooled_only: bool = False) -> Tensor:
        """All tokens, or only those that are pooled."""
        return self.after_attention(*self.attention(x, layout, pooled_only))

    def attention(self, x: Tensor, layout: Dense | Packed, pooled_only: bool) -> tuple[Tensor, Tensor]:
        """The tokens that go on, and what they attended to."""
        q, k, v = self.qkv(x, layout, pooled_only)
        return layout.pooled(x) if pooled_only else x, layout.attention(q, k, v, self.attn.num_heads, pooled_only)

    def qkv(self, x: Tensor, layout: Dense | Packed, pooled_only: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values."""
        h, attention = self.ln_1(x), self.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        if not pooled_only:
            return linear(h, weight, bias).chunk(3, dim=-1)
        width = weight.shape[1]
        q = linear(layout.pooled(h), weight[:width], None if bias is None else bias[:width])
        return q, *linear(h, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The output map of the attention, and the MLP; a second matrix of H copies makes H streams of one."""
        x = x + self.ls_1(self.attn.out_proj(attended))
        more = self.ls_2(self.mlp(self.ln_2(x)))
        return (x if len(x) == len(more) else x.repeat_interleave(len(more) // len(x), 0)) + more

    def get_weight_dtype(self) -> torch.dtype:
        """As open_clip's block."""
        return self.attn.in_proj_weight.dtype


def replace_blocks(transformer: Transformer) -> bool:
    """Puts :class:`ResidualBlock` in the place of every block, if all are of the one kind that it knows; whether it did."""
    blocks = transformer.resblocks
    known = [b for b in blocks if type(b) is ResidualAttentionBlock and fused_attention(b.attn) and not hasattr(b, "ln_1_kv")]
    if len(known) < len(blocks):
        return False
    for place, block in enumerate(known):
        blocks[place] = ResidualBlock(block)
    return True


def fused_attention(attention: nn.Module) -> bool:
    """Whether a module is softmax attention with one matrix for queries, keys and values, batch first, and nothing else.

    open_clip 3 takes torch's own, open_clip 4 its class with the same parameters, which can also normalise, scale and drop.
    """
    if getattr(attention, "in_proj_weight", None) is None:
        return False
    if isinstance(attention, nn.MultiheadAttention):
        return attention.batch_first
    if not isinstance(attention, Attention):
        return False
    bare = all(isinstance(part, nn.Identity) for part in (attention.ln_q, attention.ln_k, attention.ln_inner))
    scaled = attention.logit_scale is not None or attention.head_scale is not None
    return bare and not scaled and not attention.attn_drop.p and not attention.out_drop.p
