"""Read-outs that are products of one vector a phrase with one vector a patch: by the pooled vector, by a word's tokens, through h_v.

* ``pooled``: cosine of the phrase's pooled vector with the patch. The one that every model with patches has, and in which all are compared.
* ``token``: dot product of the tokens of the phrase's head noun ("cup" of "a small red cup") with the patch, neither normalised, mean over
  the noun's sub-word tokens: what SPARC's loss is made of (Bica et al., ICML 2024, section 2: ``s[l,p] = t_l . v_p``). ``token_cosine``: the
  cosines in its place (FILIP, GLoRIA, MGCA).
* ``h_v``: as ``pooled``, with patches that go the way of the pooled vector, through the layer that SPARC's head has there (h_v, appendix D.7:
  what the paper's segmentation reads).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel, PatchModel
from wholegrain.evaluation.features.encode import encode_texts, evaluating
from wholegrain.evaluation.read_outs.contract import Phrase, ReadOut, Recorded
from wholegrain.evaluation.read_outs.head_nouns import WordSpans, head_tokens
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.features import ImageFeatures

TEXTS = 1024
"""That many texts have their tokens in memory at a time."""


class VectorReadOut(ReadOut[Tensor]):
    """The look is one vector a patch, ``[B, P, D]``; phrases are asked with as one vector each, ``[N, D]``."""

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Tensor:
        """Unit patches."""
        return unit(patches(image))

    def maps(self, look: Tensor, asked_N: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Dot products."""
        return [asked_N[torch.tensor(chosen, dtype=torch.int64)] @ look_PD.T for look_PD, chosen in zip(look, rows, strict=True)]

    def all_maps(self, look: Tensor, asked_N: Tensor, pictures: int) -> Tensor:
        """Dot products, all at once."""
        return look @ asked_N.T


class PooledReadOut(VectorReadOut):
    """Cosines of pooled texts with patches."""

    name = "pooled"
    sentence = "cosine of the phrase's pooled vector with the patch"
    cosines = asks_pooled = True

    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """Unit pooled vectors."""
        return unit(encode_texts(self.model, [phrase.text for phrase in phrases], frozenset()).pooled_ND)


class HeadLayerReadOut(PooledReadOut):
    """Cosines of pooled texts with patches that went through h_v; of SPARC's head alone."""

    name = "h_v"
    sentence = "cosine of the phrase's pooled vector with the patch through the head's layer h_v"

    def __init__(self, model: EvaluatedModel) -> None:
        super().__init__(model)
        if getattr(getattr(model, "head", None), "kind", "") != "sparc":
            raise NotSupportedError(
                'The read-out h_v needs a head with the layer h_v (head = "sparc"), and this model has none; use pooled.'
            )

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Tensor:
        """Unit patches by the way of the pooled vector; the tower runs once more."""
        with evaluating(self.model):
            seen = cast(PatchModel, self.model).encode_patches_as_images(pixels_BCHW)
        return unit(patches(seen.to_cpu()))


class TokenReadOut(VectorReadOut):
    """Dot products of a head noun's tokens with patches."""

    name = "token"
    sentence = "dot product of the head noun's tokens (their mean) with the patch, neither normalised"
    reads_parts = True

    def __init__(self, model: EvaluatedModel) -> None:
        super().__init__(model)
        if getattr(model.tokenizer, "word_spans", None) is None:
            raise NotSupportedError(
                f"The read-out {self.name} needs a tokeniser that says where words are, and this model's does not; use pooled."
            )

    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """Means of the head nouns' token vectors."""
        return torch.cat([self._means(phrases[start : start + TEXTS]) for start in range(0, len(phrases), TEXTS)])

    def _means(self, phrases: Sequence[Phrase]) -> Tensor:
        text = encode_texts(self.model, [phrase.text for phrase in phrases], frozenset({"tokens"}))
        if text.tokens_NLD is None or text.mask_NL is None:
            raise NotSupportedError(
                f"The read-out {self.name} needs token vectors, and this model's text tower gives none; use pooled."
            )
        chosen_NL = head_tokens(cast(WordSpans, self.model.tokenizer), phrases, text.mask_NL)
        vectors_NLD = self._vectors(text.tokens_NLD).masked_fill(~chosen_NL[..., None], 0.0)
        return vectors_NLD.sum(1) / chosen_NL.sum(1, keepdim=True)

    def _vectors(self, x: Tensor) -> Tensor:
        return x.float()

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Tensor:
        """Patches as they are."""
        return self._vectors(patches(image))


class TokenCosineReadOut(TokenReadOut):
    """Cosines of a head noun's tokens with patches."""

    name = "token_cosine"
    sentence = "cosine of the head noun's tokens (their mean) with the patch"
    cosines = True

    def _vectors(self, x: Tensor) -> Tensor:
        return unit(x)


def patches(image: ImageFeatures) -> Tensor:
    """The patches ``[B, P, D]`` of features that must have them.

    Raises:
        NotSupportedError: the model gives none.
    """
    if image.patches_BPD is None or image.grid is None:
        raise NotSupportedError("The model gives no patch vectors; choose a model with a Vision Transformer.")
    return image.patches_BPD
