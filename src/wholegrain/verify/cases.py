"""Small random problems on which a loss is tried: unequal captions and negatives, missing kinds, copies, padded tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.verify.small_match import small_match

Side = TypeVar("Side", bound=ImageFeatures | TextFeatures)

SCALE, BIAS = 7.0, -1.5  # of every problem that says no other
HEAD = (2, 4, 3)  # attention heads, slots, width of each head
PROTOTYPES, PHRASES = 5, 3
KINDS = ("relation", "attribute", "object")
_LEARNED = {
    "prototypes": "prototypes",
    "mix": "slots",
    "match": "match",
    "cross": "cross",
    "grain": "grain",
}  # who needs which of a head's parameters
_OF_NEED = {
    "branches": ("branches_BHD",),
    "patches": ("patches_BPD", "grid"),
    "tokens": ("tokens_NLD", "mask_NL"),
    "slots": ("keys_BGSE", "values_BGSE", "query_NGE"),
    "match": ("match",),
    "teacher": ("teacher",),
    "phrases": ("phrases_NKD", "phrase_weight_NK"),
    "views": ("box_B4",),
    "cross": ("keys_BGSE", "values_BGSE", "query_NGE", "query_BGE", "keys_NLGE", "values_NLGE", "mask_NL"),
}
_GIVEN = frozenset({"phrase_weight_NK", "box_B4"})  # numbers that are data and no features: they have no gradient
OF_TOKENS = ("tokens_NLD", "keys_NLGE", "values_NLGE")  # parts with a row for every token of a text
ROLES = ("overview", "background", "style", "web")


@dataclass(frozen=True)
class Batch:
    """Features of images and texts, and their pairing."""

    image: ImageFeatures
    text: TextFeatures
    pairing: Pairing

    def parts(self) -> dict[str, Tensor]:
        """Every number by name: what is within something else is ``learned.NAME``, ``teacher.NAME``, ``views.0.NAME``."""
        return {**_named(self.image), **_named(self.text)}

    def leaves(self) -> dict[str, Tensor]:
        """Everything that may have a gradient, by name: all but what a teacher gave."""
        return {name: x for name, x in self.parts().items() if "teacher." not in name}

    def rows_of(self, name: str) -> str:
        """What the first axis of a part counts: ``images``, ``texts``, or ``nothing`` of the batch."""
        return "nothing" if name.startswith("learned.") else "images" if name in _named(self.image) else "texts"

    @property
    def knob_dtype(self) -> torch.dtype:
        """The type of scale and bias: float32 at least."""
        kind = self.image.pooled_BD.dtype
        return kind if kind == torch.float64 else torch.float32

    def with_leaves(self, new: Mapping[str, Tensor]) -> Batch:
        """With other numbers in the parts named."""
        return replace(self, image=_renewed(self.image, new), text=_renewed(self.text, new))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Every part changed by the same function."""
        return self.with_leaves({name: change(x) for name, x in self.parts().items()})

    def fresh(self) -> Batch:
        """The same numbers in new leaves that ask for a gradient; a teacher's do not."""
        constant = self.map(lambda x: x.detach().clone())
        return constant.with_leaves({name: x.requires_grad_() for name, x in constant.leaves().items()})

    def part(self, first: int, last: int) -> Batch:
        """The images ``first`` to ``last`` (exclusive) and their texts."""
        mine = ((self.pairing.owner_N >= first) & (self.pairing.owner_N < last)).nonzero().squeeze(1)
        pairing = self.pairing.select_texts(mine)
        pairing = replace(pairing, owner_N=pairing.owner_N - first).with_images(slice(first, last))
        return Batch(self.image.select(torch.arange(first, last)), self.text.select(mine), pairing)


def _named(features: ImageFeatures | TextFeatures, prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in vars(features).items():
        if isinstance(value, Tensor):
            found |= {prefix + name: value} if value.is_floating_point() and name not in _GIVEN else {}
        elif isinstance(value, (ImageFeatures, TextFeatures)):
            found |= _named(value, f"{prefix}{name}.")
        elif name == "views":
            for place, view in enumerate(value):
                found |= _named(view, f"{prefix}{name}.{place}.")
        elif name == "learned":
            found |= {f"{prefix}{name}.{key}": x for key, x in value.items()}
    return found


def _renewed(features: Side, new: Mapping[str, Tensor], prefix: str = "") -> Side:
    changed: dict[str, object] = {}
    for name, value in vars(features).items():
        if isinstance(value, Tensor):
            changed[name] = new.get(prefix + name, value)
        elif isinstance(value, (ImageFeatures, TextFeatures)):
            changed[name] = _renewed(value, new, f"{prefix}{name}.")
        elif name == "views":
            changed[name] = tuple(_renewed(view, new, f"{prefix}{name}.{place}.") for place, view in enumerate(value))
        elif name == "learned":
            changed[name] = {key: new.get(f"{prefix}{name}.{key}", x) for key, x in value.items()}
    return replace(features, **changed)


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
    text_id, image_id = near_ids(texts), near_ids(images)
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

    pooled_BD, branches_BHD = normal(images, width), normal(images, branches, width)
    branches_BHD[::2] = branches_BHD[::2, :1] + 0.4 * branches_BHD[::2]  # alike: what holds branches apart has something to do
    image = ImageFeatures(pooled_BD, branches_BHD, normal(images, patches, width), _grid(patches))
    length = torch.randint(1, tokens + 1, (texts,), generator=draw)
    mask = torch.arange(tokens) < length[:, None]
    text = TextFeatures(normal(texts, width), normal(texts, tokens, width), mask)
    slots = {"keys_BGSE": normal(images, *HEAD), "values_BGSE": normal(images, *HEAD)}
    learned = {"mix_DA": normal(width, HEAD[0] * HEAD[2]), "mix_D": normal(width), "prototypes_KD": normal(PROTOTYPES, width)}
    image = replace(image, **slots)
    text = replace(text, query_NGE=normal(texts, HEAD[0], HEAD[2]))
    learned |= {"match_DD": normal(width, width), "match_1": normal(1)}  # drawn last, so that the rest stays as it was
    image = replace(image, learned=learned, match=small_match)
    image, text = _with_phrases(*_more(image, text, normal), normal, draw)
    return Batch(image, text, Pairing(owner, negative_of, role, kind, text_id, image_id, ROLES, KINDS, torch.arange(images) % 3 % 2))


def near_ids(count: int) -> Tensor:
    """Ids of 63 bits, as the data have them, that are easily taken for one another: each four in a row differ in the last two bits
    alone, and every fourth has the same last 32 bits."""
    place = torch.arange(count)
    return 2**62 + place % 4 + (place // 4 << 33)


def drawn_near(batch: Batch, sign: float = 1.0, strength: float = 1.0) -> Batch:
    """As a trained model has it: captions lie near their images, foils less near; with ``sign=-1`` they lie farther off than foils.

    Tokens follow, and with them what the network says that reads image and text together; ``strength``: how loudly.
    """
    image, owner = batch.image, batch.pairing.owner_N
    assert image.patches_BPD is not None
    assert batch.text.tokens_NLD is not None
    towards = torch.where(batch.pairing.true_N, sign, 0.3 * sign).to(image.pooled_BD)[:, None]
    vectors = batch.text.pooled_ND + 3 * towards * image.pooled_BD[owner]
    seen_ND = (image.patches_BPD.mean(1) @ image.learned["match_DD"].T)[owner]
    tokens = 0.5 * batch.text.tokens_NLD + 2 * strength * (towards * seen_ND)[:, None]
    return batch.with_leaves({"pooled_ND": vectors, "tokens_NLD": tokens})


def _more(image: ImageFeatures, text: TextFeatures, made: Callable[..., Tensor]) -> tuple[ImageFeatures, TextFeatures]:
    """With two further views, a teacher that sees the first of them, and what images and words that attend to each other need."""
    assert text.mask_NL is not None
    (images, width), (texts, tokens) = image.pooled_BD.shape, text.mask_NL.shape
    heads, inner = HEAD[0], HEAD[2]
    cross = {f"cross_{side}_DA": made(width, heads * inner) for side in ("image", "text")}
    cross |= {f"cross_{side}_D": made(width) for side in ("image", "text")} | {"cross_log_scale_1": made(1)}
    teacher, second, third = (ImageFeatures(made(images, width)) for _ in range(3))
    views = (
        replace(second, query_BGE=made(images, heads, inner), teacher=ImageFeatures(made(images, width)), box_B4=_boxes(images)),
        replace(third, query_BGE=made(images, heads, inner), box_B4=_boxes(images)),
    )
    image = replace(image, query_BGE=made(images, heads, inner), learned={**image.learned, **cross}, teacher=teacher, views=views)
    slots = {"keys_NLGE": made(texts, tokens, heads, inner), "values_NLGE": made(texts, tokens, heads, inner)}
    return image, replace(text, **slots, teacher=TextFeatures(made(texts, width)))


def _boxes(images: int) -> Tensor:
    """Which part of the first view another one shows: of every sixth a part that the first does not, of others corners in the middle of patches."""
    place = torch.arange(images, dtype=torch.float64)
    x0, y0 = 0.1 * (place % 6) + (place % 6 == 5) * 0.4, 0.05 * (place % 4)
    return torch.stack([x0, y0, x0 + 0.35, y0 + 0.6], 1)


def _with_phrases(
    image: ImageFeatures, text: TextFeatures, made: Callable[..., Tensor], draw: torch.Generator | None = None
) -> tuple[ImageFeatures, TextFeatures]:
    """With up to three phrases a text, of unequal weights, and what a head learns of them; without ``draw`` three alike."""
    texts, width = text.pooled_ND.shape
    phrases = {"phrases_NKD": made(texts, PHRASES, width), "phrase_weight_NK": torch.full((texts, PHRASES), 1 / PHRASES).double()}
    if draw is not None:
        count = torch.randint(PHRASES + 1, (texts, 1), generator=draw)
        weight = torch.rand(texts, PHRASES, generator=draw, dtype=torch.float64) + 0.1
        weight = torch.where(torch.arange(PHRASES) < count, weight, 0.0)
        phrases["phrase_weight_NK"] = weight / weight.sum(1, keepdim=True).clamp_min(0.1)
    grain = {"grain_log_weight_1": 0.5 * made(1), "grain_log_temperature_1": made(1)}
    return replace(image, learned={**image.learned, **grain}), replace(text, **phrases)


def _grid(patches: int) -> tuple[int, int]:
    rows = max(n for n in range(1, int(patches**0.5) + 1) if patches % n == 0)
    return rows, patches // rows


def as_type(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch's features in another floating-point type."""
    return batch.map(lambda x: x.to(dtype))


def permuted(batch: Batch, images: Tensor, texts: Tensor) -> Batch:
    """The same images and texts in other orders (permutations)."""
    pairing = batch.pairing.select_texts(texts)
    pairing = replace(pairing, owner_N=images.argsort()[pairing.owner_N]).with_images(images)
    return Batch(batch.image.select(images), batch.text.select(texts), pairing)


def padded_with(batch: Batch, filling: float, more: int = 3) -> Batch:
    """Padded positions filled with a number, and ``more`` of them."""
    mask = batch.text.mask_NL
    assert mask is not None
    longer = {}
    given = {name: x for name in OF_TOKENS if (x := getattr(batch.text, name)) is not None}
    for name, x in given.items():
        extra = torch.full((len(x), more, *x.shape[2:]), filling, dtype=x.dtype)
        longer[name] = torch.cat([torch.where(mask.view(*mask.shape, *[1] * (x.ndim - 2)), x, filling), extra], 1)
    return replace(batch, text=replace(batch.text, **longer, mask_NL=torch.nn.functional.pad(mask, (0, more))))


def without_texts(batch: Batch) -> Batch:
    """The images alone."""
    none = torch.arange(0)
    return Batch(batch.image, batch.text.select(none), batch.pairing.select_texts(none))


def lean(batch: Batch, needs: frozenset[str]) -> Batch:
    """Only the features that ``needs`` names; others are ``None``."""
    kept = {part for need, parts in _OF_NEED.items() if need in needs for part in parts}
    learned = {name: x for name, x in batch.image.learned.items() if _LEARNED[name.partition("_")[0]] in needs}

    def slim(features: Side) -> Side:
        empty: dict[str, object] = {f.name: None for f in fields(features) if f.name not in {*kept, "pooled_BD", "pooled_ND", "learned", "views"}}
        return replace(features, **empty)

    image = replace(slim(batch.image), learned=learned)
    views = tuple(slim(view) for view in image.views) if "views" in needs else ()
    pairing = batch.pairing if "twins" in needs else replace(batch.pairing, side_B=None)
    return replace(batch, image=replace(image, views=views), text=slim(batch.text), pairing=pairing)


def lone_pair(batch: Batch) -> Batch:
    """The first image and its first text."""
    first = torch.tensor([0])
    return Batch(batch.image.select(first), batch.text.select(first), replace(Pairing.one_to_one(1), side_B=torch.zeros(1, dtype=torch.int64)))


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
        torch.arange(images) % 2,
    )

    def ones(*shape: int) -> Tensor:
        return torch.ones(*shape, dtype=torch.float64)

    learned = {"mix_DA": ones(8, HEAD[0] * HEAD[2]), "mix_D": ones(8), "prototypes_KD": ones(PROTOTYPES, 8)}
    learned |= {"match_DD": torch.eye(8, dtype=torch.float64), "match_1": ones(1)}
    image = ImageFeatures(ones(images, 8), ones(images, 3, 8), ones(images, 4, 8), (2, 2), learned=learned, match=small_match)
    image = replace(image, keys_BGSE=ones(images, *HEAD), values_BGSE=ones(images, *HEAD))
    mask = torch.ones(texts, tokens, dtype=torch.bool)
    image, text = _more(image, TextFeatures(ones(texts, 8), ones(texts, tokens, 8), mask, ones(texts, HEAD[0], HEAD[2])), ones)
    return Batch(*_with_phrases(image, text, ones), pairing)
