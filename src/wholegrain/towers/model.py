"""The model: two towers, a head, a temperature, and the preprocessing and tokeniser that belong to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from wholegrain.data.preprocess import Preprocess
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import MAX_SCALE, capped_scale
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.towers.base import NOTHING, ImageTower, RawImage, RawText, TextTower
from wholegrain.towers.heads.base import Head


class Model(nn.Module):
    """A CLIP model: uint8 pixels and token rows in, features of one shared width out.

    Args:
        image_tower, text_tower: see :mod:`wholegrain.towers.base`.
        head: see :mod:`wholegrain.towers.heads.registry`.
        preprocess: how images are resized and normalised for this image tower.
        tokenizer: makes this text tower's token rows.
        log_scale: logarithm of the factor on cosines; CLIP starts at ln(1 / 0.07).
        bias: an additive bias of logits (SigLIP), or ``None``.

    Features are not normalised; losses and metrics apply their own similarity.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        text_tower: TextTower,
        head: Head,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        *,
        log_scale: float = math.log(1 / 0.07),
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image_tower: ImageTower = image_tower
        self.text_tower: TextTower = text_tower
        self.head: Head = head
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.log_scale = nn.Parameter(torch.tensor(float(log_scale)))
        self.bias: nn.Parameter | None = None if bias is None else nn.Parameter(torch.tensor(float(bias)))

    @property
    def scale(self) -> Tensor:
        """exp(log_scale), at most 100 as in CLIP. A model with a bias has no cap: SigLIP's scales are above 100.

        A loaded model may lie above (OpenAI's weights do, by rounding) and comes down in training; that none runs away is the affair
        of :meth:`keep_in_range`.
        """
        return self.log_scale.exp() if self.bias is not None else capped_scale(self.log_scale)

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Puts learned scales back into 1 .. 100, as open_clip does after every optimiser step; a frozen one stays what it is."""
        if self.bias is None and self.log_scale.requires_grad:
            self.log_scale.clamp_(0.0, math.log(MAX_SCALE))
        self.head.keep_in_range()

    def add_bias(self, bias: float = -10.0, scale: float = 10.0) -> None:
        """Gives the model the bias and scale that a sigmoid loss starts from (by default SigLIP's: Zhai et al., ICCV 2023, section 3.2).

        A model that has a bias keeps what it has learned.
        """
        if self.bias is None:
            self.bias = nn.Parameter(torch.tensor(bias, device=self.log_scale.device))
            with torch.no_grad():
                self.log_scale.fill_(math.log(scale))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_scale.device

    @property
    def width(self) -> int:
        """D, shared by images and texts."""
        return self.head.width

    @property
    def score(self) -> Callable[[ImageFeatures, TextFeatures], Tensor] | None:
        """How a head that scores pairs jointly does so, ``score(images, texts) -> [B, N]``; ``None`` where the cosine is meant."""
        return self.head.score if self.head.scores_pairs else None

    @property
    def score_needs(self) -> frozenset[str]:
        """What :attr:`score` needs of the features."""
        return self.head.score_needs

    def phrases_of(self, texts: Sequence[str]) -> Sequence[Sequence[str]]:
        """The noun phrases of each text, where :attr:`score_needs` has ``phrases``; their vectors are those of texts."""
        return self.head.phrases_of(texts)

    @property
    def read_out(self) -> str:
        """The read-out of ``evaluation/read_outs`` that the model was trained for: its head's; else ``pooled`` where patches are pooled, and
        ``gradient`` where a class token or an attention pooling stands between them and texts."""
        return self.head.read_out or ("pooled" if self.image_tower.pools_patches else "gradient")

    @property
    def image_frozen(self) -> bool:
        """No parameter of the image tower is trained, so raw image features may be cached."""
        return self.image_tower.frozen

    @property
    def text_frozen(self) -> bool:
        """No parameter of the text tower is trained, so raw text features may be cached."""
        return self.text_tower.frozen

    def raw_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """uint8 pixels of the model's size to what its head needs of the image tower; ``kept_BK``: from these patches alone."""
        return self.image_tower(self.preprocess.normalise(pixels_BCHW), self.head.raw_needs(needs), kept_BK)

    def raw_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
        """Token rows to what the head needs of the text tower."""
        return self.text_tower(tokens_NL, length_N, self.head.raw_needs(needs))

    def project_images(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """Raw image features (fresh, or from a cache) to the shared width."""
        return self.head.project_image(raw, needs)

    def project_texts(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """Raw text features (fresh, or from a cache) to the shared width."""
        return self.head.project_text(raw, needs)

    def encode_images(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> ImageFeatures:
        """uint8 ``[B, 3, S, S]``, S the model's ``preprocess.size``; patches and branches come if ``needs`` holds their names.

        ``kept_BK``: the patches that each image is seen by, of towers that are ``droppable``; all by default.
        """
        return self.project_images(self.raw_images(pixels_BCHW, needs, kept_BK), needs)

    def encode_patches_as_images(self, pixels_BCHW: Tensor) -> ImageFeatures:
        """As :meth:`encode_images` with patches, each of which goes the way of the pooled vector: with SPARC's head through h_v."""
        needs = frozenset({"patches"})
        raw = self.raw_images(pixels_BCHW, needs)
        return replace(self.project_images(raw, needs), patches_BPD=self.head.patches_as_images(raw))

    def encode_texts(self, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """int64 token rows and their lengths, as the tokeniser gives them; tokens come if ``needs`` holds ``tokens``."""
        return self.project_texts(self.raw_texts(tokens_NL, length_N, needs), needs)

    def forward(
        self, pixels_BCHW: Tensor, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING
    ) -> tuple[ImageFeatures, TextFeatures, Tensor, Tensor | None]:
        """Features of both sides, scale and bias in one call; training has its own (``training/encoder.py``)."""
        image = self.encode_images(pixels_BCHW, needs)
        return image, self.encode_texts(tokens_NL, length_N, needs), self.scale, self.bias
