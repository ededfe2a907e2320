"""Small random problems on which a loss is tried: unequal captions and negatives, missing kinds, copies, padded tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wholegrain.app.verify.small_match import small_match
from wholegrain.features import ImageFeatures, Pairing, TextFeatures

HEAD = (2, 4, 3)  # attention heads, slots, width of each head
PROTOTYPES = 5
KINDS = ("relation", "attribute", "object")
_LEARNED = {"prototypes": "prototypes", "mix": "slots", "match": "match"}  # who needs which of a head's parameters
ROLES = ("overview", "background", "style", "web")


@dataclass(frozen=True)
class Batch:
    """Features of images and texts, and their pairing."""

    image: ImageFeatures
    text: TextFeatures
    pairing: Pairing

    def leaves(self) -> dict[str, Tensor]:
        """Everything that may have a gradient, by name; a head's parameters are ``learned.NAME``."""
        named = {**vars(self.image), **vars(self.text)}
        found = {name: x for name, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()}
        return found | {f"learned.{name}": x for name, x in self.image.learned.items()}

    def rows_of(self, name: str) -> str:
        """What the first axis of a leaf counts: ``images``, ``texts``, or ``nothing`` of the batch."""
        return "nothing" if name.startswith("learned.") else "images" if hasattr(self.image, name) else "texts"

    @property
    def knob_dtype(self) -> torch.dtype:
        """The type of scale and bias: float32 at least."""
        kind = self.image.pooled_BD.dtype
        return kind if kind == torch.float64 else torch.float32

    def with_leaves(self, new: Mapping[str, Tensor]) -> Batch:
        """With other numbers in the features named."""
        learned = {name.removeprefix("learned."): x for name, x in new.items() if name.startswith("learned.")}
        image = replace(self.image, **{name: x for name, x in new.items() if hasattr(self.image, name)})
        image = replace(image, learned={**image.learned, **learned})
        text = replace(self.text, **{name: x for name, x in new.items() if hasattr(self.text, name)})
        return replace(self, image=image, text=text)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Every feature changed by the same function."""
        return self.with_leaves({name: change(x) for name, x in self.leaves().items()})

    def fresh(self) -> Batch:
        """The same numbers in new leaves that ask for a gradient."""
        return self.map(lambda x: x.detach().clone().requires_grad_())

    def part(self, first: int, last: int) -> Batch:
        """The images ``first`` to ``last`` (exclusive) and their texts."""
        mine = ((self.pairing.owner_N >= first) & (self.pairing.owner_N < last)).nonzero().squeeze(1)
        pairing = self.pairing.select_texts(mine)
        pairing = replace(pairing, owner_N=pairing.owner_N - first, image_id_B=pairing.image_id_B[first:last])
        return Batch(self.image.select(torch.arange(first, last)), self.text.select(mine), pairing)


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

    image = ImageFeatures(normal(images, width), normal(images, branches, width), normal(images, patches, width), _grid(patches))
    length = torch.randint(1, tokens + 1, (texts,), generator=draw)
    mask = torch.arange(tokens) < length[:, None]
    text = TextFeatures(normal(texts, width), normal(texts, tokens, width), mask)
    slots = {"keys_BGSE": normal(images, *HEAD), "values_BGSE": normal(images, *HEAD)}
    learned = {"mix_DA": normal(width, HEAD[0] * HEAD[2]), "mix_D": normal(width), "prototypes_KD": normal(PROTOTYPES, width)}
    image = replace(image, **slots)
    text = replace(text, query_NGE=normal(texts, HEAD[0], HEAD[2]))
    learned |= {"match_DD": normal(width, width), "match_1": normal(1)}  # drawn last, so that the rest stays as it was
    image = replace(image, learned=learned, match=small_match)
    return Batch(image, text, Pairing(owner, negative_of, role, kind, text_id, image_id, ROLES, KINDS))


def _grid(patches: int) -> tuple[int, int]:
    rows = max(n for n in range(1, int(patches**0.5) + 1) if patches % n == 0)
    return rows, patches // rows


def as_type(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch's features in another floating-point type."""
    return batch.map(lambda x: x.to(dtype))


def permuted(batch: Batch, images: Tensor, texts: Tensor) -> Batch:
    """The same images and texts in other orders (permutations)."""
    pairing = batch.pairing.select_texts(texts)
    pairing = replace(pairing, owner_N=images.argsort()[pairing.owner_N], image_id_B=pairing.image_id_B[images])
    return Batch(batch.image.select(images), batch.text.select(texts), pairing)


def padded_with(batch: Batch, filling: float, more: int = 3) -> Batch:
    """Padded positions filled with a number, and ``more`` of them."""
    tokens, mask = batch.text.tokens_NLD, batch.text.mask_NL
    assert tokens is not None
    assert mask is not None
    extra = torch.full((len(tokens), more, tokens.shape[2]), filling, dtype=tokens.dtype)
    tokens = torch.cat([torch.where(mask[..., None], tokens, filling), extra], 1)
    return replace(batch, text=replace(batch.text, tokens_NLD=tokens, mask_NL=torch.nn.functional.pad(mask, (0, more))))


def without_texts(batch: Batch) -> Batch:
    """The images alone."""
    none = torch.arange(0)
    return Batch(batch.image, batch.text.select(none), batch.pairing.select_texts(none))


def lean(batch: Batch, needs: frozenset[str]) -> Batch:
    """Only the features that ``needs`` names; others are ``None``."""
    image, text = batch.image, batch.text
    image = ImageFeatures(
        image.pooled_BD,
        image.branches_BHD if "branches" in needs else None,
        image.patches_BPD if "patches" in needs else None,
        image.grid if "patches" in needs else None,
        image.keys_BGSE if "slots" in needs else None,
        image.values_BGSE if "slots" in needs else None,
        {name: x for name, x in image.learned.items() if _LEARNED[name.partition("_")[0]] in needs},
        match=image.match if "match" in needs else None,
    )
    tokens, slots = "tokens" in needs, "slots" in needs
    read = {"tokens_NLD": text.tokens_NLD, "mask_NL": text.mask_NL} if tokens else {}
    return replace(batch, image=image, text=TextFeatures(text.pooled_ND, **read, query_NGE=text.query_NGE if slots else None))


def lone_pair(batch: Batch) -> Batch:
    """The first image and its first text."""
    first = torch.tensor([0])
    return Batch(batch.image.select(first), batch.text.select(first), Pairing.one_to_one(1))


def alike(images: int, foils: int = 3, tokens: int = 5, captions: int = 1) -> Batch:
    """Images, captions and foils (one of each kind per caption) that cannot be told apart: every feature is one."""
    owner = torch.arange(images).repeat_interleave(captions)
    caption = torch.arange(images * captions)
    of, number = caption.repeat_interleave(foils), images * captions * foils
    texts = images * captions + number
    pairing = Pairing(
        torch.cat([owner, owner[of]]),
        torch.cat([caption * 0 - 1, of]),
        torch.full((texts,), ROLES.index("web")),
        torch.cat([caption * 0 - 1, torch.arange(number) % max(foils, 1)]),
        torch.arange(texts) + 100,
        torch.arange(images) + 500,
        ROLES,
        tuple(KINDS[:foils]),
    )

    def ones(*shape: int) -> Tensor:
        return torch.ones(*shape, dtype=torch.float64)

    learned = {"mix_DA": ones(8, HEAD[0] * HEAD[2]), "mix_D": ones(8), "prototypes_KD": ones(PROTOTYPES, 8)}
    learned |= {"match_DD": torch.eye(8, dtype=torch.float64), "match_1": ones(1)}
    seen = ImageFeatures(ones(images, 8), ones(images, 3, 8), ones(images, 4, 8), (2, 2), learned=learned, match=small_match)
    seen = replace(seen, keys_BGSE=ones(images, *HEAD), values_BGSE=ones(images, *HEAD))
    mask = torch.ones(texts, tokens, dtype=torch.bool)
    return Batch(seen, TextFeatures(ones(texts, 8), ones(texts, tokens, 8), mask, ones(texts, HEAD[0], HEAD[2])), pairing)
