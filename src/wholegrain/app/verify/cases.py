"""Small random problems on which a loss is tried: unequal captions and negatives, missing kinds, copies, padded tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures

KINDS = ("relation", "attribute", "object")
ROLES = ("overview", "background", "style", "web")


@dataclass(frozen=True)
class Batch:
    image: ImageFeatures
    text: TextFeatures
    pairing: Pairing

    def leaves(self) -> dict[str, Tensor]:
        named = {**vars(self.image), **vars(self.text)}
        return {name: x for name, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()}

    def fresh(self) -> Batch:
        """The same numbers in new leaves that ask for a gradient."""

        def renew(features):
            new = {name: x.detach().clone().requires_grad_() for name, x in vars(features).items() if _floating(x)}
            return replace(features, **new)

        return Batch(renew(self.image), renew(self.text), self.pairing)

    def part(self, first: int, last: int) -> Batch:
        """The images ``first`` to ``last`` (exclusive) and their texts."""
        mine = ((self.pairing.owner_N >= first) & (self.pairing.owner_N < last)).nonzero().squeeze(1)
        pairing = self.pairing.select_texts(mine)
        pairing = replace(pairing, owner_N=pairing.owner_N - first, image_id_B=pairing.image_id_B[first:last])
        return Batch(self.image.select(torch.arange(first, last)), self.text.select(mine), pairing)


def _floating(x) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def make_batch(
    seed: int = 0,
    captions: tuple[int, ...] = (1, 3, 2, 1, 2, 1),
    negatives: int = 2,
    branches: int = 3,
    patches: int = 6,
    tokens: int = 5,
    width: int = 7,
    duplicates: bool = True,
) -> Batch:
    """Unequal captions and negatives; if asked for with duplicates: a copied image, and captions and foils used twice."""
    draw = torch.Generator().manual_seed(seed)
    rows: list[tuple[int, int, int, int]] = []  # owner, negative_of, role, kind
    for image, count in enumerate(captions):
        for place in range(count):
            role, mine = int(torch.randint(len(ROLES), (), generator=draw)), len(rows)
            rows.append((image, -1, role, -1))
            number = negatives if place == 0 and image == 0 else int(torch.randint(negatives + 1, (), generator=draw))
            for _ in range(number):
                rows.append((image, mine, role, int(torch.randint(len(KINDS) - 1, (), generator=draw))))
    owner, negative_of, role, kind = (torch.tensor(column) for column in zip(*rows, strict=True))
    texts, images = len(rows), len(captions)
    text_id, image_id = torch.arange(texts) + 100, torch.arange(images) + 500
    if duplicates:
        true = (negative_of < 0).nonzero().squeeze(1)
        image_id[-1] = image_id[0]
        text_id[true[-2]] = text_id[true[1]]
        foils = (negative_of >= 0).nonzero().squeeze(1)
        if len(foils) > 1:
            text_id[foils[0]] = text_id[negative_of[foils[0]]]
            text_id[foils[-1]] = text_id[true[1]]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    image = ImageFeatures(normal(images, width), normal(images, branches, width), normal(images, patches, width), (1, patches))
    length = torch.randint(1, tokens + 1, (texts,), generator=draw)
    mask = torch.arange(tokens) < length[:, None]
    text = TextFeatures(normal(texts, width), normal(texts, tokens, width), mask)
    return Batch(image, text, Pairing(owner, negative_of, role, kind, text_id, image_id, ROLES, KINDS))
