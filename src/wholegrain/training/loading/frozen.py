"""Raw features of a frozen tower, computed once and kept in memory: an epoch then costs about as much as the heads alone.

They may also be kept on disk (:mod:`wholegrain.towers.feature_files`), and then the next run need not compute them. Only for a
tower that is frozen whole; for images also only without augmentation. Everything is encoded before the first step, in an order
that depends on the data alone, so a resumed run has the same bits. Features are kept as float32 on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative
from wholegrain.objectives.schema import DataRecipe, selects
from wholegrain.text.tokenizer import Tokens
from wholegrain.towers.base import RawImage, RawText
from wholegrain.towers.feature_files import features_name, read_features, tower_digest, write_features
from wholegrain.towers.model import Model
from wholegrain.training.loading.draw import first_sentences
from wholegrain.training.loading.loader import plainly
from wholegrain.training.memory.precision import autocast
from wholegrain.training.pace import Pace, Say

SHARE_OF_MEMORY = 0.4
"""Raw features may take this share of the memory that is free when training starts."""

_CHUNK = 64
Item = TypeVar("Item")


class Pictures(Protocol):
    """Pictures by key, such as a data set: uint8 RGB ``[H, W, 3]``."""

    def pixels(self, key: str, /) -> np.ndarray: ...


@dataclass(frozen=True)
class FrozenImages:
    """Raw image features by key."""

    row: dict[str, int]
    raw: RawImage

    def read(self, keys: Sequence[str], device: torch.device) -> RawImage:
        """The raw features of these images, on a device."""
        index = torch.tensor([self.row[key] for key in keys])
        return self.raw.select(index).map(lambda part: part.to(device, non_blocking=True))


@dataclass(frozen=True)
class FrozenTexts:
    """Raw text features by text; tokens, if they are needed, lie end to end."""

    row: dict[str, int]
    pooled_TV: Tensor
    start_T: Tensor
    length_T: Tensor
    tokens_SV: Tensor | None

    def read(self, texts: Sequence[str], device: torch.device) -> RawText:
        """The raw features of these texts, padded to the longest of them, on a device."""
        index = torch.tensor([self.row[text] for text in texts])
        length_N = self.length_T[index]
        place_L = torch.arange(int(length_N.max()) if len(index) else 0)
        mask_NL = place_L < length_N[:, None]
        tokens_NLV = None
        if self.tokens_SV is not None:
            rows_NL = (self.start_T[index][:, None] + place_L).clamp(max=len(self.tokens_SV) - 1)
            tokens_NLV = self.tokens_SV[rows_NL].masked_fill(~mask_NL[..., None], 0.0)
        return RawText(self.pooled_TV[index], tokens_NLV, mask_NL).map(lambda part: part.to(device, non_blocking=True))


def encode_images_once(
    model: Model,
    dataset: Pictures,
    keys: Sequence[str],
    needs: frozenset[str],
    precision: str,
    workers: int = 0,
    say: Say = print,
    cache: Path | None = None,
) -> FrozenImages | None:
    """Encodes every image once and says how far it is; ``None`` if the features would not fit into memory.

    With ``cache``, a folder, features that lie there are read instead, and new ones are put there.
    """
    path = None
    if cache is not None:  # a key is a hash of the image's bytes, so the keys stand for the pixels
        facts = [list(keys), model.preprocess.to_json(), asked(model, needs, "patches"), precision, model.device.type]
        path = cache / features_name("images", tower_digest(model.image_tower), facts)
    found = None if path is None else read_features(path, _allowed())
    if found is None:
        say(f"The image tower is frozen: {len(keys):,} images are encoded once.")
        found = _encode_images(model, dataset, keys, needs, precision, workers, say)
        if found is None:
            return None
        if path is not None:
            write_features(path, found)
    else:
        say(f"The image tower is frozen: features of {len(keys):,} images are read from {cache}.")
    rows, columns = found.pop("grid").tolist()
    raw = RawImage(**found, grid=(rows, columns) if rows else None)
    return FrozenImages({key: index for index, key in enumerate(keys)}, raw)


def asked(model: Model, needs: frozenset[str], part: str) -> bool:
    """Whether a tower is asked for its patches or tokens: all that a need means to a tower."""
    return part in model.head.raw_needs(needs)


def _encode_images(
    model: Model, dataset: Pictures, keys: Sequence[str], needs: frozenset[str], precision: str, workers: int, say: Say
) -> dict[str, Tensor] | None:
    """The parts of :class:`RawImage` by name; a missing grid is (0, 0)."""
    loader = DataLoader(
        _Pixels(dataset, model, keys),
        batch_size=_CHUNK,
        num_workers=workers,
        generator=torch.Generator(),
    )
    filled: dict[str, Tensor] = {}
    grid = None
    for number, pixels_BCHW in enumerate(_with_progress(plainly(loader), len(keys), "images", say)):
        raw = _raw_images(model, pixels_BCHW, needs, precision)
        parts = raw.tensors()
        if not filled:
            if sum(part[0].numel() * 4 for part in parts.values()) * len(keys) > _allowed():
                return None
            filled = {name: torch.empty((len(keys), *part.shape[1:])) for name, part in parts.items()}
            grid = raw.grid
        for name, part in parts.items():
            filled[name][number * _CHUNK : number * _CHUNK + len(part)] = part
    return filled | {"grid": torch.tensor(grid or (0, 0))}


def encode_texts_once(
    model: Model,
    texts: Sequence[str],
    needs: frozenset[str],
    precision: str,
    say: Say = print,
    cache: Path | None = None,
) -> FrozenTexts | None:
    """Encodes every distinct text once, texts of like length together; ``None`` if the features would not fit into memory.

    With ``cache``, a folder, features that lie there are read instead, and new ones are put there.
    """
    ordered = sorted(set(texts), key=lambda text: (len(text), text))
    chunks = [model.tokenizer.encode(ordered[first : first + _CHUNK]) for first in range(0, len(ordered), _CHUNK)]
    path = None
    if cache is not None:
        facts = [len(ordered), asked(model, needs, "tokens"), precision, model.device.type]
        rows = [part for chunk in chunks for part in (chunk.tokens_NL, chunk.length_N)]
        path = cache / features_name("texts", tower_digest(model.text_tower), facts, rows)
    found = None if path is None else read_features(path, _allowed())
    if found is None:
        say(f"The text tower is frozen: {len(ordered):,} texts are encoded once.")
        found = _encode_texts(model, chunks, len(ordered), needs, precision, say)
        if found is None:
            return None
        if path is not None:
            write_features(path, found)
    else:
        say(f"The text tower is frozen: features of {len(ordered):,} texts are read from {cache}.")
    length_T = torch.cat([chunk.length_N for chunk in chunks])
    start_T = length_T.cumsum(0) - length_T
    row = {text: index for index, text in enumerate(ordered)}
    return FrozenTexts(row, found["pooled_TV"], start_T, length_T, found.get("tokens_SV"))


def _encode_texts(
    model: Model, chunks: Sequence[Tokens], count: int, needs: frozenset[str], precision: str, say: Say
) -> dict[str, Tensor] | None:
    """``pooled_TV``, and ``tokens_SV`` if they are needed."""
    pooled, tokens, done, held = [], [], 0, 0
    for chunk in _with_progress(chunks, count, "texts", say):
        raw = _raw_texts(model, chunk.tokens_NL, chunk.length_N, needs, precision)
        pooled.append(raw.pooled_NV)
        if raw.tokens_NLV is not None:
            tokens.append(raw.tokens_NLV[raw.mask_NL])
        done += len(raw.pooled_NV)
        held += 4 * (pooled[-1].numel() + (tokens[-1].numel() if tokens else 0))
        if held * count / done > _allowed() + held:
            return None
    return {"pooled_TV": torch.cat(pooled)} | ({"tokens_SV": torch.cat(tokens)} if tokens else {})


def drawable_texts(dataset: Dataset, keys: Sequence[str], recipe: DataRecipe) -> set[str]:
    """Every caption, every beginning of one and every negative that the recipe can draw for these images."""
    texts: set[str] = set()
    leads = [draw for draw in recipe.captions if draw.lead]
    for key in keys:
        for caption in dataset.record(key).captions:
            if any(selects(draw.roles, caption.role) for draw in recipe.captions):
                texts.add(caption.text)
                texts.update(first_sentences(caption.text, draw.lead) for draw in leads if selects(draw.roles, caption.role))
                if recipe.negatives.count:
                    texts.update(row.text for row in dataset.negatives.get((key, caption.id), ()) if _drawable(row, recipe))
    return texts


def _drawable(row: Negative, recipe: DataRecipe) -> bool:
    return not recipe.negatives.kinds or row.kind in recipe.negatives.kinds


class _Pixels(torch.utils.data.Dataset):
    def __init__(self, dataset: Pictures, model: Model, keys: Sequence[str]) -> None:
        self.dataset, self.preprocess, self.keys = dataset, model.preprocess, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.preprocess.image(self.dataset.pixels(self.keys[index])))


@torch.no_grad()
def _raw_images(model: Model, pixels_BCHW: Tensor, needs: frozenset[str], precision: str) -> RawImage:
    device = next(model.parameters()).device
    with autocast(device, precision):
        raw = model.raw_images(pixels_BCHW.to(device), needs)
    return raw.to_cpu()


@torch.no_grad()
def _raw_texts(model: Model, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str], precision: str) -> RawText:
    device = next(model.parameters()).device
    with autocast(device, precision):
        raw = model.raw_texts(tokens_NL.to(device), length_N.to(device), needs)
    return raw.to_cpu()


def _with_progress(chunks: Iterable[Item], total: int, what: str, say: Say) -> Iterator[Item]:
    """The chunks; now and then a line says how many are done."""
    pace = Pace(say)
    for number, chunk in enumerate(chunks):
        yield chunk
        pace(what, min(total, (number + 1) * _CHUNK), total)


def _allowed() -> float:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return SHARE_OF_MEMORY * free / int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's processes of this machine each keep their own
    except (ValueError, OSError, AttributeError):
        return 2**31
