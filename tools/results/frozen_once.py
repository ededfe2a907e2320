"""What the frozen parts of a pair of towers make of a picture or a text is computed once for all runs and tests of an evaluation.

The library keeps what towers give that are frozen whole. Here the last layer of the text tower is trained, so what enters that layer is kept; and
every picture's patches are kept with its pooled vector, whoever asks first, so that training, validation and tests share them. The image tower's
convolutions and BatchNorms are joined, which is the same to rounding in half of the time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wholegrain.towers.base import NOTHING, RawImage, RawText, masked_mean, real_tokens
from wholegrain.towers.feature_files import read_features, write_features
from wholegrain.towers.model import Model
from wholegrain.towers.sources.hf_text import HfTextTower
from wholegrain.towers.sources.timm import TimmImageTower

_PART = 1024
"""Rows of a file: what an interruption costs."""


class Kept:
    """Tensors by the hash of what they were made of, in memory and in files of :data:`_PART` rows."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.rows, self.fresh = folder, name, dict[bytes, Tensor](), list[bytes]()
        for path in sorted(folder.glob(f"{name}-*.safetensors")):
            found = read_features(path) or {"keys": torch.zeros(0, 16, dtype=torch.uint8), "lengths": torch.zeros(0, dtype=torch.int64)}
            if len(found["keys"]):
                keys = [bytes(key.tolist()) for key in found["keys"]]
                self.rows.update(zip(keys, found["values"].split(found["lengths"].tolist()), strict=True))

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """The places of those that are missing, each once."""
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        return sorted(place for key, place in first.items() if key not in self.rows)

    def add(self, key: bytes, value: Tensor) -> None:
        """Keeps a tensor, and writes a file where enough are new."""
        self.rows[key] = value.clone()
        self.fresh.append(key)
        if len(self.fresh) >= _PART:
            self.write()

    def write(self) -> None:
        """What is new, into a file."""
        if self.fresh:
            values = [self.rows[key] for key in self.fresh]
            number = len(list(self.folder.glob(f"{self.name}-*.safetensors")))
            tensors = {
                "keys": torch.tensor([list(key) for key in self.fresh], dtype=torch.uint8),
                "lengths": torch.tensor([len(value) for value in values]),
                "values": torch.cat(values),
            }
            write_features(self.folder / f"{self.name}-{number:04}.safetensors", tensors)
            self.fresh = []


@contextmanager
def frozen_once(model: Model, folder: Path) -> Iterator[None]:
    """While this is open, all models with these frozen towers share what they make, and keep it in ``folder`` and in memory.

    Args:
        model: a timm CNN, frozen, and an encoder of BERT's kind of which no more than the last layer is trained.
    """
    assert isinstance(model.image_tower, TimmImageTower)
    assert isinstance(model.text_tower, HfTextTower)
    seen, read = Kept(folder, "images"), Kept(folder, "texts")
    joined, lower = _joined(model.image_tower), _layers(model.text_tower.net, slice(-1))
    image, text = TimmImageTower.forward, HfTextTower.forward

    def see(self: TimmImageTower, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        if not self.frozen:
            return image(self, pixels_BCHW, needs, kept_BK)
        patches_BPV = _patches(seen, partial(image, joined), pixels_BCHW)
        side = round(patches_BPV.shape[1] ** 0.5)
        found = RawImage(patches_BPV.mean(1), patches_BPV, grid=(side, side))
        return found if "patches" in needs else RawImage(found.pooled_BV)

    def say(self: HfTextTower, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        if self.tuned not in ("none", "last:1"):
            return text(self, tokens_NL, length_N, needs)
        mask_NL = real_tokens(length_N, tokens_NL.shape[1])
        hidden_NLV = _before_the_last_layer(read, lower, tokens_NL, mask_NL)
        x = _layers(self.net, slice(-1, None))(inputs_embeds=hidden_NLV, attention_mask=mask_NL.long()).last_hidden_state
        pooled = masked_mean(x, mask_NL) if self.pool == "mean" else x[:, 0]
        return RawText(pooled, x if "tokens" in needs else None, mask_NL)

    TimmImageTower.forward, HfTextTower.forward = see, say
    try:
        yield
    finally:
        TimmImageTower.forward, HfTextTower.forward = image, text
        seen.write()
        read.write()


@torch.no_grad()
def _patches(seen: Kept, tower: Callable[[Tensor, frozenset[str]], RawImage], pixels_BCHW: Tensor) -> Tensor:
    """``[B, P, V]``."""
    keys = [_hash(pixels) for pixels in pixels_BCHW]
    for some in _parts(seen.missing(keys)):
        raw = tower(pixels_BCHW[some].contiguous(memory_format=torch.channels_last), frozenset({"patches"}))
        assert raw.patches_BPV is not None
        for place, patches in zip(some, raw.patches_BPV, strict=True):
            seen.add(keys[place], patches)
    return torch.stack([seen.rows[key] for key in keys])


@torch.no_grad()
def _before_the_last_layer(read: Kept, lower: nn.Module, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
    """``[N, L, V]``, zero behind a text's end; texts of like length are run together."""
    lengths = mask_NL.sum(1).tolist()
    keys = [_hash(row[:length]) for row, length in zip(tokens_NL, lengths, strict=True)]
    for some in _parts(sorted(read.missing(keys), key=lambda place: lengths[place])):
        longest = max(lengths[place] for place in some)
        hidden = lower(input_ids=tokens_NL[some, :longest], attention_mask=mask_NL[some, :longest].long()).last_hidden_state
        for place, states in zip(some, hidden, strict=True):
            read.add(keys[place], states[: lengths[place]])
    hidden_NLV = nn.utils.rnn.pad_sequence([read.rows[key] for key in keys], batch_first=True)
    return nn.functional.pad(hidden_NLV, (0, 0, 0, tokens_NL.shape[1] - hidden_NLV.shape[1]))


def _parts(places: Sequence[int]) -> Iterator[Sequence[int]]:
    """Of 64."""
    return (places[start : start + 64] for start in range(0, len(places), 64))


def _hash(values: Tensor) -> bytes:
    return blake2b(values.contiguous().numpy().tobytes(), digest_size=16).digest()


class _Given(nn.Module):
    """In the place of embeddings: what is given is there already."""

    def forward(self, inputs_embeds: Tensor, **_: object) -> Tensor:
        return inputs_embeds


def _layers(net: nn.Module, which: slice) -> nn.Module:
    """Some layers of an encoder of BERT's kind, with its own parameters; without the first, given what enters them."""
    part, encoder = copy.copy(net), copy.copy(net.get_submodule("encoder"))
    layers = encoder.get_submodule("layer")
    assert isinstance(layers, nn.ModuleList)
    encoder._modules = {**encoder._modules, "layer": layers[which]}
    part._modules = {**part._modules, "encoder": encoder}
    if which.start:
        part._modules["embeddings"] = _Given()
    return part


def _joined(tower: TimmImageTower) -> TimmImageTower:
    """A copy with each convolution and the BatchNorm behind it as one convolution."""
    tower = copy.deepcopy(tower).eval()
    before: nn.Conv2d | None = None
    for parent in list(tower.net.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Conv2d):
                before = module
            elif isinstance(module, nn.BatchNorm2d) and before is not None:  # timm's, with its activation
                fused = fuse_conv_bn_eval(before, module)
                before.weight, before.bias = fused.weight, fused.bias
                setattr(parent, name, nn.Sequential(module.get_submodule("drop"), module.get_submodule("act")))
                before = None
    tower.net.to(memory_format=torch.channels_last)
    return tower
