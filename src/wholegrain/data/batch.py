"""One training step's input: images, the distinct texts, and how they pair.

Identical texts of a batch are tokenised and encoded once: ``tokens_UL`` has one row per *distinct* text and ``row_N`` says which
row each text of the pairing reads, so features of all N texts are ``features.select(batch.row_N)``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from wholegrain.data.slots import Slots, taken
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
        broken: images that should have stood here and could not be read, and why.
    """

    key: str
    pixels_CHW: np.ndarray | Tensor | None
    crop: tuple[float, float, float, float]
    texts: tuple[Text, ...]
    more: tuple[tuple[np.ndarray | Tensor, tuple[float, float, float, float]], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()


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
        cut: how many of the N texts were longer than the tokeniser's context and lost their end.
        broken: images that should have been here and could not be read, and why; others take their places.
        place: where a loading worker has put the pixels; of use only while the batch is sent, see ``data/slots.py``.
    """

    views: tuple[View, ...]
    tokens_UL: Tensor
    length_U: Tensor
    row_N: Tensor
    pairing: Pairing
    keys: tuple[str, ...]
    texts: tuple[str, ...]
    cut: int = 0
    broken: tuple[tuple[str, str], ...] = ()
    place: tuple[int, int, int] | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Between processes pixels go through memory that is shared, in slots if there are any, and numbers as bytes: sending a tensor
        costs a descriptor and a mapping each."""
        numbers = {name: getattr(self, name).numpy(force=True) for name in ("tokens_UL", "length_U", "row_N")}
        pairing = {name: v.numpy(force=True) if isinstance(v, Tensor) else v for name, v in vars(self.pairing).items()}
        pixels = self.place or [view.pixels_BCHW for view in self.views]
        crops = [view.crops_B4.numpy(force=True) for view in self.views]
        words = {name: getattr(self, name) for name in ("keys", "texts", "cut", "broken")}
        return _arrived, (pixels, crops, numbers, pairing, words)

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

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of a batch on a CUDA device until what this stream does with it is done."""
        tensors = [self.tokens_UL, self.length_U, self.row_N, *(view.pixels_BCHW for view in self.views)]
        for tensor in (*tensors, *(value for value in vars(self.pairing).values() if isinstance(value, Tensor))):
            tensor.record_stream(stream)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the DataLoader calls this."""
        views = tuple(View(v.pixels_BCHW.pin_memory(), v.crops_B4) for v in self.views)
        pinned = {name: getattr(self, name).pin_memory() for name in ("tokens_UL", "length_U", "row_N")}
        pairs = {name: v.pin_memory() for name, v in vars(self.pairing).items() if isinstance(v, Tensor)}
        return replace(self, views=views, pairing=replace(self.pairing, **pairs), **pinned)


def _arrived(
    pixels: list[Tensor] | tuple[int, int, int],
    crops: list[np.ndarray],
    numbers: dict[str, np.ndarray],
    pairing: dict[str, Any],
    words: dict[str, Any],
) -> Batch:
    """The inverse of ``Batch.__reduce__``."""
    pairs: dict[str, Any] = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in pairing.items()}
    looks = taken(pixels) if isinstance(pixels, tuple) else pixels
    views = tuple(View(look, torch.from_numpy(crop)) for look, crop in zip(looks, crops, strict=True))
    tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
    return Batch(views=views, pairing=Pairing(**pairs), **tensors, **words)


def stable_id(text: str) -> int:
    """A 63-bit hash, the same in every process and on every machine.

    Example:
        >>> stable_id("a cat") == stable_id("a cat") >= 0
        True
    """
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def collate(
    samples: Sequence[Sample],
    tokenizer: Tokenizer | None,
    roles: Sequence[str],
    kinds: Sequence[str],
    slots: Slots | None = None,
) -> Batch:
    """A batch from its samples.

    Args:
        samples: B samples.
        tokenizer: encodes the distinct texts in one call; ``None`` leaves ``tokens_UL`` empty (raw features already known).
        roles, kinds: the data set's names, the same in every process.
        slots: where a loading worker leaves the pixels.
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
        image_id_B=_whole([stable_id(sample.key.rpartition(":")[2]) for sample in samples]),  # of any data set of a mixture
        roles=tuple(roles),
        kinds=tuple(kinds),
    )
    tokens_UL, length_U = torch.zeros((len(row), 0), dtype=torch.int64), torch.zeros(len(row), dtype=torch.int64)
    cut = 0
    if tokenizer is not None and row:
        encoded = tokenizer.encode(list(row))
        tokens_UL, length_U = encoded.tokens_NL, encoded.length_N
        cut = int(encoded.cut_N[row_N].sum())
    views, place = _views(samples, slots)
    keys = tuple(sample.key for sample in samples)
    broken = tuple(pair for sample in samples for pair in sample.broken)
    return Batch(views, tokens_UL, length_U, _whole(row_N), pairing, keys, tuple(row), cut, broken, place)


def _views(samples: Sequence[Sample], slots: Slots | None) -> tuple[tuple[View, ...], tuple[int, int, int] | None]:
    looks = [[(sample.pixels_CHW, sample.crop), *sample.more] for sample in samples if sample.pixels_CHW is not None]
    by_view = list(zip(*looks, strict=True))
    pixels = [[torch.as_tensor(image) for image, _ in look] for look in by_view]
    put = slots.put(pixels) if slots is not None and pixels else None
    # Without slots, in a worker, this stacks straight into memory that is shared.
    stacked, place = put if put is not None else ([default_collate(images) for images in pixels], None)
    crops = [torch.tensor([crop for _, crop in look], dtype=torch.float32) for look in by_view]
    return tuple(View(look, crop) for look, crop in zip(stacked, crops, strict=True)), place


def _whole(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
