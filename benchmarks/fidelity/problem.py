"""Random features, their pairing, and one loss on them: value and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wholegrain.features import ImageFeatures, Pairing, TextFeatures

SIDE = {
    "image": "image",
    "branches": "image",
    "patches": "image",
    "text": "text",
    "tokens": "text",
    "scale": "scale",
    "bias": "scale",
}


@dataclass(frozen=True)
class Problem:
    """B images, M captions each (image by image), then K negatives for each caption (caption by caption).

    Attributes:
        leaves: ``image [B, D]``, ``text [N, D]``, ``patches [B, P, D]``, ``tokens [N, L, D]``, ``branches [B, H, D]``, ``scale``,
            ``bias``; not normalised.
        mask_NL: True at tokens.
        valid_BMK: True at negatives that are there; the others are texts like any other here, and left out of ``pairing``.
        pairing: of the texts that are there, by their place among them.
        kept_N: the places of these texts.
    """

    leaves: dict[str, Tensor]
    mask_NL: Tensor
    valid_BMK: Tensor
    pairing: Pairing
    kept_N: Tensor
    sizes: tuple[int, int, int]

    def __getattr__(self, name: str) -> Tensor:
        if name in SIDE:
            return self.leaves[name]
        raise AttributeError(name)

    @property
    def captions(self) -> Tensor:
        """The captions' vectors, ``[B * M, D]``."""
        images, captions, _ = self.sizes
        return self.text[: images * captions]

    @property
    def foils(self) -> Tensor:
        """The negatives' vectors, also of those that are not there, ``[B * M * K, D]``."""
        images, captions, _ = self.sizes
        return self.text[images * captions :]

    @property
    def features(self) -> tuple[ImageFeatures, TextFeatures, Pairing]:
        """As the losses of this library take them."""
        image = ImageFeatures(self.image, self.branches, self.patches, (1, self.patches.shape[1]))
        return image, TextFeatures(self.text, self.tokens, self.mask_NL).select(self.kept_N), self.pairing

    def by_image(self, x: Tensor) -> Tensor:
        """Rows of captions as ``[B, M, ...]``."""
        return x.unflatten(0, self.sizes[:2])

    def fresh(self) -> Problem:
        """The same numbers in new leaves."""
        return replace(self, leaves={name: x.detach().clone().requires_grad_() for name, x in self.leaves.items()})


@dataclass(frozen=True)
class Shape:
    """What a problem is drawn with.

    Attributes:
        captions, negatives: M of an image, K of a caption.
        absent: share of negatives that are not there; ``absent_kind`` has none at all of this kind.
        duplicates: the last image's captions are those of the first.
        padded: texts have unequal lengths.
        alike: how much the branches of an image share, 0..1.
    """

    captions: int = 1
    negatives: int = 0
    absent: float = 0.0
    absent_kind: int = -1
    duplicates: bool = False
    padded: bool = True
    alike: float = 0.0
    branches: int = 3


def draw(seed: int, images: int, shape: Shape, dtype: torch.dtype) -> Problem:
    """A problem of ``images`` images."""
    source = torch.Generator().manual_seed(seed)
    width, patches, length = 8 + seed, 4 + 3 * seed, 5 + seed
    captions, negatives = shape.captions, shape.negatives
    true = images * captions
    count = true * (1 + negatives)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=source, dtype=torch.float64).to(dtype)

    shared = shape.alike * normal(images, 1, width)
    leaves = {
        "image": normal(images, width),
        "text": normal(count, width),
        "patches": normal(images, patches, width),
        "tokens": normal(count, length, width),
        "branches": shared + (1 - shape.alike) * normal(images, shape.branches, width),
        "scale": torch.tensor(4.0 + seed, dtype=dtype),
        "bias": torch.tensor(-1.0, dtype=dtype),
    }
    long = torch.randint(2, length + 1, (count,), generator=source) if shape.padded else torch.full((count,), length)
    valid = torch.rand(images, captions, negatives, generator=source) >= shape.absent
    if 0 <= shape.absent_kind < negatives:
        valid[..., shape.absent_kind] = False
    text_id = torch.arange(count) + 100
    if shape.duplicates:
        text_id[true - captions : true] = text_id[:captions]
        leaves["text"][true - captions : true] = leaves["text"][:captions]
    owner = torch.arange(images).repeat_interleave(captions)
    of = torch.arange(true).repeat_interleave(negatives)
    pairing = Pairing(
        torch.cat([owner, owner[of]]),
        torch.cat([torch.full((true,), -1), of]),
        torch.cat([torch.arange(true) % captions, (torch.arange(true) % captions)[of]]),
        torch.cat([torch.full((true,), -1), torch.arange(negatives).repeat(true)]),
        text_id,
        torch.arange(images) + 500,
        tuple(f"role {m}" for m in range(captions)),
        tuple(f"kind {k}" for k in range(negatives)),
    )
    kept = torch.cat([torch.ones(true, dtype=torch.bool), valid.flatten()]).nonzero().squeeze(1)
    mask = torch.arange(length) < long[:, None]
    problem = Problem(leaves, mask, valid, pairing.select_texts(kept), kept, (images, captions, negatives))
    return problem.fresh()


Side = Callable[[Problem], Tensor]


@dataclass(frozen=True)
class Difference:
    """How far two losses are apart.

    Attributes:
        value: absolute difference of the losses.
        image, text, scale: largest difference of a gradient by its largest entry; ``None`` where neither has one.
    """

    value: float
    image: float | None
    text: float | None
    scale: float | None

    def worse(self, other: Difference | None) -> Difference:
        """The larger of both, number by number."""
        if other is None:
            return self
        return Difference(*(_larger(getattr(self, name), getattr(other, name)) for name in ("value", "image", "text", "scale")))  # type: ignore[arg-type]


def _larger(a: float | None, b: float | None) -> float | None:
    known = [x for x in (a, b) if x is not None]
    return next((x for x in known if x != x), max(known)) if known else None


def compare(theirs: Side, ours: Side, problem: Problem) -> Difference:
    """Both on the same numbers."""
    (their_value, their_grads), (our_value, our_grads) = (_run(side, problem.fresh()) for side in (theirs, ours))
    found: dict[str, float | None] = {"image": None, "text": None, "scale": None}
    for name, side in SIDE.items():
        a, b = their_grads[name], our_grads[name]
        if a is None and b is None:
            continue
        a, b = (x if x is not None else torch.zeros_like(problem.leaves[name]) for x in (a, b))
        size = float(torch.maximum(a.abs().max(), b.abs().max()))
        apart = float((a.double() - b.double()).abs().max()) / size if size > 0 or size != size else 0.0
        found[side] = _larger(found[side], apart)
    return Difference(abs(their_value - our_value), found["image"], found["text"], found["scale"])


def _run(side: Side, problem: Problem) -> tuple[float, dict[str, Tensor | None]]:
    value = side(problem)
    if not value.isnan():
        value.backward()
    return value.item(), {name: x.grad for name, x in problem.leaves.items()}


def unit(x: Tensor) -> Tensor:
    """Unit vectors, as released code makes them."""
    return normalize(x, dim=-1)
