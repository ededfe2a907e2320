"""One training step's input: images, the distinct texts, and how they pair.

Identical texts of a batch are tokenised and encoded once: ``tokens_UL`` has one row per *distinct* text and ``row_N`` says which
row each text of the pairing reads, so features of all N texts are ``features.select(batch.row_N)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wholegrain.features import Pairing
from wholegrain.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class View:
    """One look at every image of a batch.

    Attributes:
        pixels_BCHW: uint8, RGB.
        crops_B4: float32, x0, y0, x1, y1 in pixels of the stored image: the part that the view shows.
    """

    pixels_BCHW: Tensor
    crops_B4: Tensor


@dataclass(frozen=True)
class Text:
    """One text of a sample: what it says, its role, and what it contradicts (a place among the sample's texts, or -1)."""

    text: str
    role: int
    negative_of: int = -1
    kind: int = -1


@dataclass(frozen=True)
class Sample:
    """One image of a batch before collation.

    Attributes:
        key: the record's key.
        pixels_CHW: uint8, or ``None`` where the image's raw features are already known.
        crop: x0, y0, x1, y1 in pixels of the stored image.
        texts: true captions, and negatives after the caption that they contradict.
        more: pixels and crops of further views; as many in every sample of a batch.
    """

    key: str
    pixels_CHW: np.ndarray | Tensor | None
    crop: tuple[float, float, float, float]
    texts: tuple[Text, ...]
    more: tuple[tuple[np.ndarray | Tensor, tuple[float, float, float, float]], ...] = ()


@dataclass(frozen=True)
class Batch:
    """B images and N texts, U of them distinct.

    Attributes:
        views: the looks at the images, all of one size; empty where the image tower's raw features are already known.
        tokens_UL: int64, one row per distinct text, trimmed to the longest.
        length_U: int64, true lengths.
        row_N: int64, the row of ``tokens_UL`` that each text reads.
        pairing: which text belongs to which image.
        keys: the B records' keys.
        texts: the U distinct texts.
    """

    views: tuple[View, ...]
    tokens_UL: Tensor
    length_U: Tensor
    row_N: Tensor
    pairing: Pairing
    keys: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def tokens_NL(self) -> Tensor:
        """int64 ``[N, L]``: the tokens of every text, repeats included."""
        return self.tokens_UL[self.row_N]

    @property
    def length_N(self) -> Tensor:
        """int64 ``[N]``: the length of every text, repeats included."""
        return self.length_U[self.row_N]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        views = tuple(View(v.pixels_BCHW.to(device, non_blocking=non_blocking), v.crops_B4) for v in self.views)
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("tokens_UL", "length_U", "row_N")}
        return replace(self, views=views, pairing=self.pairing.to(device, non_blocking), **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the DataLoader calls this."""
        views = tuple(View(v.pixels_BCHW.pin_memory(), v.crops_B4) for v in self.views)
        pinned = {name: getattr(self, name).pin_memory() for name in ("tokens_UL", "length_U", "row_N")}
        pairs = {name: v.pin_memory() for name, v in vars(self.pairing).items() if isinstance(v, Tensor)}
        return replace(self, views=views, pairing=replace(self.pairing, **pairs), **pinned)


def stable_id(text: str) -> int:
    """A 63-bit hash, the same in every process and on every machine.

    Example:
        >>> stable_id("a cat") == stable_id("a cat") >= 0
        True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def collate(samples: Sequence[Sample], tokenizer: Tokenizer | None, roles: Sequence[str], kinds: Sequence[str]) -> Batch:
    """A batch from its samples.

    Args:
        samples: B samples.
        tokenizer: encodes the distinct texts in one call; ``None`` leaves ``tokens_UL`` empty (raw features already known).
        roles, kinds: the data set's names, the same in every process.
    """
    texts = [(owner, text) for owner, sample in enumerate(samples) for text in sample.texts]
    start_B = np.cumsum([0] + [len(sample.texts) for sample in samples])
    row: dict[str, int] = {}
    row_N = [row.setdefault(text.text, len(row)) for _, text in texts]
    identity_U = [stable_id(text) for text in row]
    pairing = Pairing(
        owner_N=_whole([owner for owner, _ in texts]),
        negative_of_N=_whole([int(start_B[owner]) + t.negative_of if t.negative_of >= 0 else -1 for owner, t in texts]),
        role_N=_whole([text.role for _, text in texts]),
        kind_N=_whole([text.kind for _, text in texts]),
        text_id_N=_whole([identity_U[place] for place in row_N]),
        image_id_B=_whole([stable_id(sample.key) for sample in samples]),
        roles=tuple(roles),
        kinds=tuple(kinds),
    )
    tokens_UL, length_U = torch.zeros((len(row), 0), dtype=torch.int64), torch.zeros(len(row), dtype=torch.int64)
    if tokenizer is not None and row:
        encoded = tokenizer.encode(list(row))
        tokens_UL, length_U = encoded.tokens_NL, encoded.length_N
    return Batch(_views(samples), tokens_UL, length_U, _whole(row_N), pairing, tuple(s.key for s in samples), tuple(row))


def _views(samples: Sequence[Sample]) -> tuple[View, ...]:
    looks = [[(sample.pixels_CHW, sample.crop), *sample.more] for sample in samples if sample.pixels_CHW is not None]
    views = []
    for look in zip(*looks, strict=True):
        pixels = torch.stack([torch.as_tensor(image) for image, _ in look])
        views.append(View(pixels, torch.tensor([crop for _, crop in look], dtype=torch.float32)))
    return tuple(views)


def _whole(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
