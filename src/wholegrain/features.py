"""The tensor types that every room shares: image features, text features, and which text belongs to which image.

Shape suffixes, used throughout the library::

    B images    N texts     U distinct texts    H image branches        K kinds of negatives, phrases of a text, or patches that are kept
    P patches   L tokens    D shared width      V tower width           C, H, W of pixels (only in ``pixels_BCHW``)
    S slots that a text may attend to           G attention heads, each of width E
    R, C rows and columns of a score matrix; any other letter (M, F, Q, ...) counts what is at hand in that function

Texts are one flat list. A batch with one caption per image, with five captions per image, or with four hard negatives per
caption is a shorter or longer list; :class:`Pairing` says what each text is. Nothing is ever faked to fill a gap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

_RAGGED = frozenset({"tokens_NLD", "mask_NL", "keys_NLGE", "values_NLGE", "phrases_NKD", "phrase_weight_NK", "phrase_id_NK"})
"""Fields whose second dimension is as long as the longest text needs."""


@dataclass(frozen=True)
class FeatureRows:
    """Tensors with one row for each image or each text, and what belongs to no row."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with ``change`` applied to every tensor that has rows, those of views and of a teacher included."""
        changed: dict[str, object] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Tensor):
                changed[part.name] = change(value)
            elif isinstance(value, FeatureRows):
                changed[part.name] = value.map(change)
            elif part.name == "views":
                changed[part.name] = tuple(view.map(change) for view in value)
        return replace(self, **changed)

    def select(self, index: Tensor | slice) -> Self:
        """The rows at ``index`` (int64 or bool, one-dimensional, or a slice), in that order."""
        return self.map(lambda rows: rows[index])

    def to_cpu(self) -> Self:
        """float32 copies on the CPU that are ordinary tensors, not inference tensors; masks keep their type."""
        return self.map(lambda rows: rows.to("cpu", torch.float32 if rows.is_floating_point() else rows.dtype).clone())

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that have rows, by the name of their field; without those of views and of a teacher."""
        return {part.name: value for part in fields(self) if isinstance(value := getattr(self, part.name), Tensor)}


def _none_learned() -> dict[str, Tensor]:  # torch.export cannot follow dict[str, Tensor]()
    return {}


Features = TypeVar("Features", bound=FeatureRows)


def join(parts: Sequence[Features]) -> Features:
    """Features of one kind as one, row after row; what belongs to no row is the first part's.

    Tokens and phrases are padded with zeros to the longest.
    """
    joined: dict[str, object] = {}
    for part in fields(parts[0]):
        values = [getattr(one, part.name) for one in parts]
        if isinstance(values[0], Tensor):
            joined[part.name] = torch.cat(_padded(values) if part.name in _RAGGED else values)
        elif isinstance(values[0], FeatureRows):
            joined[part.name] = join(values)
        elif part.name == "views":
            joined[part.name] = tuple(join(same) for same in zip(*values, strict=True))
    return replace(parts[0], **joined)


def _padded(values: Sequence[Tensor]) -> list[Tensor]:
    longest = max(value.shape[1] for value in values)
    return [torch.cat([v, v.new_zeros((len(v), longest - v.shape[1], *v.shape[2:]))], 1) for v in values]


@dataclass(frozen=True)
class ImageFeatures(FeatureRows):
    """What the image tower saw, projected to the width that images and texts share.

    Attributes:
        pooled_BD: one vector per image, *not* normalised; each loss and metric states and applies its own similarity.
        branches_BHD: H vectors per image (Holistic CLIP), not normalised; ``None`` for a single-vector tower.
        patches_BPD: one vector per patch, not normalised, row-major over ``grid``; ``None`` unless asked for.
        grid: patch rows and columns, ``grid[0] * grid[1] == P``.
        keys_BGSE, values_BGSE: what a text's query may attend to, of heads that pool by attention (FLAIR, Llip); else ``None``.
        learned: parameters of the head that a loss applies to pairs, by name: of no image in particular, and not indexed.
        match: of a head that reads image and text together (a fusion model): ``match(images, texts) -> [M]``, the log-odds that
            image m and text m belong together. A pure function of both arguments: its parameters are ``images.learned``.
        query_BGE: each image's query to ``keys_NLGE``, scaled, of heads in which images attend to words (COSMOS); else ``None``.
        teacher: what a teacher sees in the same images, without gradient (``training/teacher.py``); else ``None``.
        views: the same images seen otherwise (further crops), in the order of ``data.views``; a view has no views of its own. One that
            only a teacher saw (``teacher.student_views``) has the teacher's pooled vector in the place of its own.
        box_B4: of a view: x0, y0, x1, y1, the part of the first view that it shows, in shares of that one's sides: 0..1, beyond where it
            shows what the first view does not; else ``None``.
    """

    pooled_BD: Tensor
    branches_BHD: Tensor | None = None
    patches_BPD: Tensor | None = None
    grid: tuple[int, int] | None = None
    keys_BGSE: Tensor | None = None
    values_BGSE: Tensor | None = None
    learned: Mapping[str, Tensor] = field(default_factory=_none_learned)
    match: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None
    query_BGE: Tensor | None = None
    teacher: ImageFeatures | None = None
    views: tuple[ImageFeatures, ...] = ()
    box_B4: Tensor | None = None


@dataclass(frozen=True)
class TextFeatures(FeatureRows):
    """What the text tower read.

    Attributes:
        pooled_ND: one vector per text, not normalised.
        tokens_NLD: one vector per token, not normalised; ``None`` unless asked for.
        mask_NL: True at real tokens; always present with ``tokens_NLD``. What padded positions hold is undefined.
        query_NGE: each text's query to ``keys_BGSE``, scaled: the attention is the softmax of their products; else ``None``.
        keys_NLGE, values_NLGE: what an image's query may attend to, token by token, with ``mask_NL``; else ``None``.
        teacher: what a teacher reads in the same texts, without gradient (``training/teacher.py``); else ``None``.
        phrases_NKD: the pooled vectors of the noun phrases of each text, not normalised; of scores that ask for them, else ``None``.
        phrase_weight_NK: >= 0, sum 1 over the phrases of a text; all 0 for a text without any, and where there is no further phrase.
        phrase_id_NK: int64, a hash of each phrase, as ``Pairing.text_id_N``: phrases with one id have one vector, and are compared
            once; ``None``: nothing is known to be equal.
    """

    pooled_ND: Tensor
    tokens_NLD: Tensor | None = None
    mask_NL: Tensor | None = None
    query_NGE: Tensor | None = None
    keys_NLGE: Tensor | None = None
    values_NLGE: Tensor | None = None
    teacher: TextFeatures | None = None
    phrases_NKD: Tensor | None = None
    phrase_weight_NK: Tensor | None = None
    phrase_id_NK: Tensor | None = None


@dataclass(frozen=True)
class Pairing:
    """Which text belongs to which image, in what role, and which text contradicts which.

    Attributes:
        owner_N: int64, the image (0..B-1, local to this process) that each text is about.
        negative_of_N: int64, -1 for a true caption, else the index (0..N-1) of the true caption that this text contradicts.
        role_N: int64, index into ``roles``; a negative has the role of its caption.
        kind_N: int64, index into ``kinds`` for a negative, -1 for a true caption.
        text_id_N: int64, a hash of the text: the same text has the same id in every process.
        image_id_B: int64, a hash of the image bytes, likewise.
        roles: names of the roles, the same in every process.
        kinds: names of the kinds of negatives, the same in every process.
        side_B: int64, which of two twins an image is, 0 or 1, and 0 for an image without a twin; ``None`` where no twins are drawn.
    """

    owner_N: Tensor
    negative_of_N: Tensor
    role_N: Tensor
    kind_N: Tensor
    text_id_N: Tensor
    image_id_B: Tensor
    roles: tuple[str, ...] = ("web",)
    kinds: tuple[str, ...] = ()
    side_B: Tensor | None = None

    @property
    def true_N(self) -> Tensor:
        """bool ``[N]``: True for true captions, False for negatives."""
        return self.negative_of_N < 0

    def select_texts(self, index: Tensor) -> Pairing:
        """The pairing of the texts at ``index`` (int64 or bool); a negative must be selected with its caption."""
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(1)
        new_place = torch.full((len(self.owner_N) + 1,), -1, dtype=torch.int64, device=self.owner_N.device)
        new_place[index] = torch.arange(len(index), device=index.device)
        old = self.negative_of_N[index]
        moved = new_place[old]  # -1 reads the spare last cell, which holds -1
        if bool(((old >= 0) & (moved < 0)).any()):
            raise ValueError("a negative was selected without the caption it contradicts; select both, or neither")
        kept = {name: getattr(self, name)[index] for name in ("owner_N", "role_N", "kind_N", "text_id_N")}
        return replace(self, negative_of_N=moved, **kept)

    def with_images(self, index: Tensor | slice) -> Pairing:
        """With what is known of the images at ``index`` alone, in that order; owners are left as they are."""
        return replace(self, image_id_B=self.image_id_B[index], side_B=None if self.side_B is None else self.side_B[index])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pairing:
        """The same pairing on another device."""
        moved = {
            f.name: v.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    @classmethod
    def one_to_one(cls, count: int, device: torch.device | str = "cpu") -> Pairing:
        """Plain CLIP's pairing: text n is the only caption of image n.

        Example:
            >>> Pairing.one_to_one(3).owner_N.tolist()
            [0, 1, 2]
        """
        zero = torch.zeros(count, dtype=torch.int64, device=device)
        place = torch.arange(count, device=device)
        return cls(owner_N=place, negative_of_N=zero - 1, role_N=zero, kind_N=zero - 1, text_id_N=place, image_id_B=place)
