"""Batches on which the fine-grained losses are tried, with what heads give; variants and loop references are the package's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from reference_losses import make_batch as make_pairs
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.verify.joint_references import reference
from wholegrain.verify.variants import FINE_GRAINED as CASES

__all__ = ["CASES", "Batch", "make_batch", "reference"]


@dataclass(frozen=True)
class Batch:
    image: ImageFeatures
    text: TextFeatures
    pairing: Pairing

    def leaves(self) -> dict[str, Tensor]:
        named = {**vars(self.image), **vars(self.text), **self.image.learned}
        return {name: x for name, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()}

    def given(self, new: dict[str, Tensor]) -> Batch:
        """The same batch with other numbers."""
        image = {name: new[name] for name, x in vars(self.image).items() if isinstance(x, Tensor)}
        text = {name: new.get(name, x) for name, x in vars(self.text).items() if isinstance(x, Tensor)}
        learned = {name: new[name] for name in self.image.learned}
        return Batch(replace(self.image, **image, learned=learned), replace(self.text, **text), self.pairing)

    def fresh(self) -> Batch:
        """The same numbers in new leaves that ask for a gradient."""
        return self.given({name: x.detach().clone().requires_grad_() for name, x in self.leaves().items()})

    def part(self, first: int, last: int) -> Batch:
        """The images ``first`` to ``last`` (exclusive) and their texts, these trimmed to the longest."""
        mine = ((self.pairing.owner_N >= first) & (self.pairing.owner_N < last)).nonzero().squeeze(1)
        pairing = self.pairing.select_texts(mine)
        pairing = replace(pairing, owner_N=pairing.owner_N - first, image_id_B=pairing.image_id_B[first:last])
        text = self.text.select(mine)
        longest = int(text.mask_NL.sum(1).max()) if len(mine) else 1
        text = replace(text, tokens_NLD=text.tokens_NLD[:, :longest], mask_NL=text.mask_NL[:, :longest])
        return Batch(self.image.select(torch.arange(first, last)), text, pairing)


def make_batch(seed: int = 0, captions=(1, 3, 2, 1, 2, 1), width=5, patches=4, tokens=4, slots=3, heads=2, **settings) -> Batch:
    """Unequal captions, lengths and negatives, copies of images and texts, and what heads with attention or prototypes give."""
    pairs = make_pairs(seed, captions, width=width, patches=patches, tokens=tokens, **settings)
    draw = torch.Generator().manual_seed(seed + 1000)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    images, texts, inner = len(captions), len(pairs.pairing.owner_N), 4
    learned = {"mix_DA": normal(width, heads * inner), "mix_D": normal(width), "prototypes_KD": normal(3, width)}
    keys, values = normal(images, heads, slots, inner), normal(images, heads, slots, inner)
    image = replace(pairs.image, branches_BHD=None, keys_BGSE=keys, values_BGSE=values, learned=learned)
    return Batch(image, replace(pairs.text, query_NGE=normal(texts, heads, inner)), pairs.pairing)
