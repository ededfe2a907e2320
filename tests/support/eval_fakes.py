"""Small stand-ins for the evaluation's tests: a data set in memory, and towers that are tables of vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from wholegrain.data.record import Caption, Record, Region, caption_id
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.features import ImageFeatures, TextFeatures


@cache
def vector(name: str, width: int = 32) -> torch.Tensor:
    """A random unit vector that depends on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.nn.functional.normalize(torch.randn(width, generator=torch.Generator().manual_seed(seed)), dim=0)


def caption(text: str, role: str = "web") -> Caption:
    return Caption(caption_id(text), text, role)


def record(number: int, captions, *, split="test", label=None, regions=(), size=(32, 32)) -> Record:
    captions = tuple(c if isinstance(c, Caption) else caption(c) for c in captions)
    key = f"key{number:05d}"
    return Record(key, f"{key}.png", size, split, label, captions, tuple(Region(*r) for r in regions))


@dataclass
class FakeDataset:
    """Records in memory; the pixels of record n spell its number, so that a tower can tell which picture it sees."""

    all_records: list[Record]
    negatives: dict = field(default_factory=dict)
    twins: tuple = ()
    hard_positives: tuple = ()
    truths: dict = field(default_factory=dict)
    manifest: dict = field(default_factory=dict)
    content_hash: str = "fake"
    decoded: int = 0
    _by_key: dict = field(default_factory=dict)

    @property
    def splits(self):
        return tuple(dict.fromkeys(r.split for r in self.all_records))

    def keys(self, split):
        return [r.key for r in self.all_records if r.split == split]

    def records(self, split):
        return (r for r in self.all_records if r.split == split)

    def record(self, key):
        if len(self._by_key) != len(self.all_records):
            self._by_key = {r.key: r for r in self.all_records}
        return self._by_key[key]

    def pixels(self, key):
        self.decoded += 1
        number = int(key.removeprefix("key"))
        width, height = self.record(key).size
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = number % 256, number // 256
        return pixels


class FakePreprocess:
    size = 8

    def image(self, pixels, box=None):
        return torch.as_tensor(pixels[:1, :1].repeat(8, 0).repeat(8, 1)).permute(2, 0, 1)

    def visible_box(self, width, height):
        return (0.0, 0.0, float(width), float(height))


@dataclass
class FakeTokens:
    tokens_NL: torch.Tensor
    length_N: torch.Tensor
    cut_N: torch.Tensor


class FakeTokenizer:
    """A token is a code point."""

    def __init__(self):
        self.calls: list[list[str]] = []

    def encode(self, texts):
        self.calls.append(list(texts))
        length = torch.tensor([len(t) for t in texts])
        tokens = torch.zeros(len(texts), int(length.max()), dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor([ord(c) for c in text])
        return FakeTokens(tokens, length, torch.zeros(len(texts), dtype=torch.bool))


class FakeModel:
    """``image_of(key) -> ImageFeatures fields of one picture``, ``text_of(text) -> [D]``."""

    def __init__(self, image_of, text_of, content_hash="model"):
        self.image_of, self.text_of = image_of, text_of
        self.preprocess, self.tokenizer, self.content_hash = FakePreprocess(), FakeTokenizer(), content_hash
        self.training = False

    def eval(self):
        self.training = False

    def train(self):
        self.training = True

    def encode_images(self, pixels_BCHW, needs=frozenset()):
        assert pixels_BCHW.dtype == torch.uint8
        numbers = [int(p[0, 0, 0]) + 256 * int(p[1, 0, 0]) for p in pixels_BCHW]
        found = [self.image_of(f"key{n:05d}") for n in numbers]
        if isinstance(found[0], torch.Tensor):
            return ImageFeatures(torch.stack(found))
        joined = {name: torch.stack([f[name] for f in found]) for name in found[0] if name != "grid"}
        return ImageFeatures(**joined, grid=found[0].get("grid"))

    def encode_texts(self, tokens_NL, length_N, needs=frozenset()):
        texts = ["".join(chr(c) for c in row[:n].tolist()) for row, n in zip(tokens_NL, length_N, strict=True)]
        return TextFeatures(torch.stack([self.text_of(text) for text in texts]))


class Worded(FakeModel):
    """A word is one token: its vector is the word's, and that of the whole text is of nothing that is in a picture."""

    def __init__(self, image_of):
        super().__init__(image_of, lambda text: vector(f"all of {text}", 64))
        self.read_out = "token"
        self.tokenizer.encode = self._encode
        self.tokenizer.word_spans = self._spans
        self.words = {}

    def _spans(self, text):
        places, at = [], 0
        for n, word in enumerate(text.split()):
            at = text.index(word, at)
            places.append((at, at + len(word), n, n + 1))
            at += len(word)
        return places

    def _encode(self, texts):
        rows = [[self.words.setdefault(word, len(self.words)) for word in text.split()] for text in texts]
        longest = max(map(len, rows))
        length = torch.tensor([len(row) for row in rows])
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return type("Rows", (), {"tokens_NL": padded, "length_N": length, "cut_N": length < 0})

    def encode_texts(self, tokens_NL, length_N, needs=frozenset()):
        names = list(self.words)
        texts = [[names[t] for t in row[:n].tolist()] for row, n in zip(tokens_NL, length_N, strict=True)]
        pooled = torch.stack([self.text_of(" ".join(text)) for text in texts])
        tokens = torch.stack([torch.stack([vector(names[t], 64) for t in row.tolist()]) for row in tokens_NL])
        mask = torch.arange(tokens_NL.shape[1]) < length_N[:, None]
        return TextFeatures(pooled, tokens, mask) if "tokens" in needs else TextFeatures(pooled)


def encoded(image: torch.Tensor, text: torch.Tensor, owner, *, texts=None, roles=None, branches=None) -> Encoded:
    """Features as given; texts are distinct unless given."""
    owner = torch.as_tensor(owner)
    texts = tuple(texts or (f"text {n}" for n in range(len(owner))))
    roles = tuple(roles or ["web"] * len(owner))
    keys = tuple(f"key{b:05d}" for b in range(len(image)))
    return Encoded(
        keys, ImageFeatures(image, branches), texts, TextFeatures(text), owner, roles, tuple(caption_id(t) for t in texts)
    )
