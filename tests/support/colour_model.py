"""A model that reads colours: an oracle on coloured pictures."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from wholegrain.data.preprocess import Preprocess
from wholegrain.features import ImageFeatures, TextFeatures

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """A patch's vector is its mean colour; a text's vector the colour that it names."""

    training = False

    def __init__(self, blind: bool = False) -> None:
        self.preprocess, self.blind = Preprocess(32, mean=(0, 0, 0), std=(1, 1, 1)), blind
        self.tokenizer = SimpleNamespace(encode=self._tokens)

    def _tokens(self, texts):
        places = [[n for n, name in enumerate(COLOURS) if name in text] or [3] for text in texts]
        tokens = torch.tensor([p[0] for p in places])[:, None]
        return SimpleNamespace(
            tokens_NL=tokens, length_N=torch.ones(len(texts), dtype=torch.int64), cut_N=torch.zeros(len(texts))
        )

    def encode_texts(self, tokens_NL, length_N, needs=frozenset()):
        return TextFeatures(torch.cat([torch.eye(3), torch.full((1, 3), -1.0)])[tokens_NL[:, 0]])

    def encode_images(self, pixels_BCHW, needs=frozenset()):
        pooled = torch.nn.functional.adaptive_avg_pool2d(pixels_BCHW.float() + 1e-3, 8).flatten(2).transpose(1, 2)
        pooled = torch.ones_like(pooled) if self.blind else pooled
        return ImageFeatures(pooled.mean(1), patches_BPD=pooled if "patches" in needs else None, grid=(8, 8))

    def encode_patches_as_images(self, pixels_BCHW):
        return self.encode_images(pixels_BCHW, frozenset({"patches"}))
