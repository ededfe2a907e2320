"""One training step's input: images, the distinct texts, and how they pair.

Identical texts of a batch are tokenised and encoded once: ``tokens_UL`` has one row per *distinct* text and ``row_N`` says which
row each text of the pairing reads; :meth:`Batch.laid_out` makes the features of all N texts of those of the rows. Noun phrases, where
they are asked for, are texts of their own among the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from wholegrain.data.slots import Slots, taken
from wholegrain.features import Pairing, TextFeatures
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
        side: which of two twins the image is, 0 or 1, 0 without a twin; ``None`` where no twins are drawn, alike in all samples of a batch.
    """

    key: str
    pixels_CHW: np.ndarray | Tensor | None
    crop: tuple[float, float, float, float]
    texts: tuple[Text, ...]
    more: tuple[tuple[np.ndarray | Tensor, tuple[float, float, float, float]], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    side: int | None = None


@dataclass(frozen=True)
class PhraseRows:
    """The noun phrases of N texts, at most K each.

    Attributes:
        row_NK: int64, the row of ``tokens_UL`` that each phrase reads; 0 where there is none.
        weight_NK: float32, the phrase's weight in its text, of sum 1; 0 where there is none.
        id_NK: int64, a hash of each phrase, the same in every process; 0 where there is none.
    """

    row_NK: Tensor
    weight_NK: Tensor
    id_NK: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> PhraseRows:
        """The same with ``change`` applied to every tensor."""
        return PhraseRows(change(self.row_NK), change(self.weight_NK), change(self.id_NK))


@dataclass(frozen=True)
class Batch:
    """B images and N texts, U of them distinct, phrases included.

    Attributes:
        views: the looks at the images, all of one size; empty where the image tower's raw features are already known.
        tokens_UL: int64, one row per distinct text, trimmed to the longest.
        length_U: int64, true lengths.
        row_N: int64, the row of ``tokens_UL`` that each text reads.
        pairing: which text belongs to which image.
        keys: the B records' keys.
        texts: the U distinct texts; those that are nothing but a phrase come last.
        cut: how many of the N texts were longer than the tokeniser's context and lost their end.
        broken: images that should have been here and could not be read, and why; others take their places.
        phrases: the noun phrases of the N texts, where a loss needs them; else ``None``.
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
    phrases: PhraseRows | None = None
    place: tuple[int, int, int] | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Between processes pixels go through memory that is shared, in slots if there are any, and numbers as bytes: sending a tensor
        costs a descriptor and a mapping each."""
        numbers = {name: getattr(self, name).numpy(force=True) for name in ("tokens_UL", "length_U", "row_N")}
        pairing = {name: v.numpy(force=True) for name, v in vars(self.pairing).items() if isinstance(v, Tensor)}
        pixels = self.place or [view.pixels_BCHW for view in self.views]
        crops = [view.crops_B4.numpy(force=True) for view in self.views]
        if self.phrases is not None:
            numbers |= {f"phrases.{name}": v.numpy(force=True) for name, v in vars(self.phrases).items()}
        words = {"roles": self.pairing.roles, "kinds": self.pairing.kinds, "keys": self.keys, "texts": self.texts}
        return _arrived, (pixels, crops, numbers, pairing, words, self.cut, self.broken)

    def laid_out(self, text_U: TextFeatures, place_U: Tensor | None = None) -> TextFeatures:
        """The features of the N texts, with their phrases, from those of the U distinct texts.

        Args:
            text_U: of the rows, in the order of ``texts``, or in another.
            place_U: in that case, the place of each row among them.
        """
        if place_U is None and self.phrases is None and len(self.row_N) <= len(self.texts):
            return text_U  # rows are numbered as they first appear: without repeats they are in place

        def placed(row: Tensor) -> Tensor:
            return row if place_U is None else place_U[row]

        text = text_U.select(placed(self.row_N))
        if self.phrases is None:
            return text
        vectors_NKD = text_U.pooled_ND[placed(self.phrases.row_NK)]
        return replace(text, phrases_NKD=vectors_NKD, phrase_weight_NK=self.phrases.weight_NK, phrase_id_NK=self.phrases.id_NK)

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
        phrases = None if self.phrases is None else self.phrases.map(lambda x: x.to(device, non_blocking=non_blocking))
        return replace(self, views=views, pairing=self.pairing.to(device, non_blocking), phrases=phrases, **moved)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory of a batch on a CUDA device until what this stream does with it is done."""
        tensors = [self.tokens_UL, self.length_U, self.row_N, *(view.pixels_BCHW for view in self.views)]
        phrases = () if self.phrases is None else vars(self.phrases).values()
        for tensor in (*tensors, *phrases, *(value for value in vars(self.pairing).values() if isinstance(value, Tensor))):
            tensor.record_stream(stream)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; the DataLoader calls this."""
        views = tuple(View(v.pixels_BCHW.pin_memory(), v.crops_B4) for v in self.views)
        pinned = {name: getattr(self, name).pin_memory() for name in ("tokens_UL", "length_U", "row_N")}
        pairs = {name: v.pin_memory() for name, v in vars(self.pairing).items() if isinstance(v, Tensor)}
        phrases = None if self.phrases is None else self.phrases.map(Tensor.pin_memory)
        return replace(self, views=views, pairing=replace(self.pairing, **pairs), phrases=phrases, **pinned)


def _arrived(
    pixels: list[Tensor] | tuple[int, int, int],
    crops: list[np.ndarray],
    numbers: dict[str, np.ndarray],
    pairing: dict[str, np.ndarray],
    words: dict[str, tuple[str, ...]],
    cut: int,
    broken: tuple[tuple[str, str], ...],
) -> Batch:
    """The inverse of ``Batch.__reduce__``."""
    pairs = Pairing(**{name: torch.from_numpy(values) for name, values in pairing.items()}, roles=words["roles"], kinds=words["kinds"])
    looks = taken(pixels) if isinstance(pixels, tuple) else pixels
    views = tuple(View(look, torch.from_numpy(crop)) for look, crop in zip(looks, crops, strict=True))
    tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
    of_phrases = {name.removeprefix("phrases."): tensors.pop(name) for name in list(tensors) if name.startswith("phrases.")}
    phrases = PhraseRows(**of_phrases) if of_phrases else None
    return Batch(views, pairing=pairs, keys=words["keys"], texts=words["texts"], cut=cut, broken=broken, phrases=phrases, place=None, **tensors)


Phrases = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""Texts to the noun phrases of each, from left to right; an empty sequence for a text without any."""


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
    phrases: Phrases | None = None,
) -> Batch:
    """A batch from its samples.

    Args:
        samples: B samples.
        tokenizer: encodes the distinct texts in one call; ``None`` leaves ``tokens_UL`` empty (raw features already known).
        roles, kinds: the data set's names, the same in every process.
        slots: where a loading worker leaves the pixels.
        phrases: gives the noun phrases of texts; ``None`` leaves them out.
    """
    texts = [(owner, text) for owner, sample in enumerate(samples) for text in sample.texts]
    start_B = np.cumsum([0] + [len(sample.texts) for sample in samples])
    row: dict[str, int] = {}
    row_N = [row.setdefault(text.text, len(row)) for _, text in texts]
    spoken_N = None if phrases is None else _spoken([text.text for _, text in texts], phrases)
    row_Q = [row.setdefault(phrase, len(row)) for spoken in spoken_N or () for phrase in spoken]
    identity_U = [stable_id(text) for text in row]
    sides = [sample.side for sample in samples if sample.side is not None]
    pairing = Pairing(
        owner_N=_whole([owner for owner, _ in texts]),
        negative_of_N=_whole([int(start_B[owner]) + t.negative_of if t.negative_of >= 0 else -1 for owner, t in texts]),
        role_N=_whole([text.role for _, text in texts]),
        kind_N=_whole([text.kind for _, text in texts]),
        text_id_N=_whole([identity_U[place] for place in row_N]),
        image_id_B=_whole([stable_id(sample.key.rpartition(":")[2]) for sample in samples]),  # of any data set of a mixture
        roles=tuple(roles),
        kinds=tuple(kinds),
        side_B=_whole(sides) if sides else None,
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
    rows = None if spoken_N is None else _phrase_rows([len(spoken) for spoken in spoken_N], row_Q, identity_U)
    return Batch(views, tokens_UL, length_U, _whole(row_N), pairing, keys, tuple(row), cut, broken, rows, place)


def _spoken(texts: Sequence[str], phrases: Phrases) -> list[Sequence[str]]:
    """The phrases of each text; each distinct text is looked at once."""
    distinct = list(dict.fromkeys(texts))
    known = dict(zip(distinct, phrases(distinct), strict=True))
    return [known[text] for text in texts]


def _phrase_rows(count_N: Sequence[int], row_Q: Sequence[int], identity_U: Sequence[int]) -> PhraseRows:
    """The table of phrases, from their rows text after text; the phrases of a text weigh the same."""
    many_N = _whole(list(count_N))
    here_NK = torch.arange(max(count_N, default=0)) < many_N[:, None]
    row_NK, id_NK = torch.zeros(here_NK.shape, dtype=torch.int64), torch.zeros(here_NK.shape, dtype=torch.int64)
    row_NK[here_NK], id_NK[here_NK] = _whole(list(row_Q)), _whole([identity_U[row] for row in row_Q])
    return PhraseRows(row_NK, here_NK / many_N[:, None].clamp_min(1), id_NK)


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
