"""The weights by which a head's texts take up an image's patches: what the model itself looks at when it scores, or when it learns.

* FLAIR: the softmax over patches (and its empty slot) of the text's query with their keys, mean over attention heads (Xiao et al., CVPR 2025,
  section 3.2; ``losses/core/attention_pool.py``). COSMOS: the same of the text's cross-attention (Kim et al., CVPR 2025, section 3.3), which
  it has in training alone.
* SPARC: the alignment weights of the head noun's token, min-max over patches and a threshold of 1/P (Bica et al., ICML 2024, eq. 2-4; of several
  sub-word tokens the weights of their mean). They put patches into the same order as ``token`` does.
* PACL: the softmax over patches of cosines / temperature (Mukhoti et al., CVPR 2023); the same order as ``pooled``.

Llip's texts attend to mixture tokens and not to patches, and a fusion network attends token by token and layer by layer: neither has one
map a phrase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import encode_texts
from wholegrain.evaluation.read_outs.contract import AnyReadOut, Phrase, ReadOut, Recorded
from wholegrain.evaluation.read_outs.vectors import PooledReadOut, TokenReadOut, VectorReadOut, patches
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.features import ImageFeatures
from wholegrain.losses.sparc import minmax_weights


def attention_read_out(model: EvaluatedModel) -> AnyReadOut:
    """The one that fits the model's head.

    Raises:
        NotSupportedError: its texts do not weigh patches.
    """
    head: Any = getattr(model, "head", None)
    need, kind = getattr(head, "attends", ""), getattr(head, "kind", "")
    if need:
        return QueryReadOut(model, need)
    if kind == "sparc":
        return WeightReadOut(TokenReadOut(model), minmax_weights)
    if kind == "pacl":
        temperature = head.settings.pool_temperature
        return WeightReadOut(PooledReadOut(model), lambda cosine: (cosine / temperature).softmax(-1))
    raise NotSupportedError(
        "The read-out attention needs a head whose texts weigh patches (flair, cosmos, sparc, pacl), and this model's "
        f"{f'is {kind!r}' if kind else 'is unknown'}; use pooled."
    )


@dataclass(frozen=True)
class Keys:
    """Keys ``[B, G, S, E]``, of which the first P are those of patches; behind them there may be that of an empty slot."""

    keys_BGSE: Tensor
    patches: int


class QueryReadOut(ReadOut[Keys]):
    """The softmax of queries ``[N, G, E]`` with the keys ``[B, G, S, E]`` of patches, mean over G attention heads.

    Args:
        need: the name by which the head gives queries and keys.
    """

    name = "attention"
    sentence = "weight by which the text attends to the patch, mean over attention heads"

    def __init__(self, model: EvaluatedModel, need: str) -> None:
        super().__init__(model)
        self.needs, self._need = frozenset({"patches", need}), need

    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """Queries; scaled, as the head gives them."""
        query_NGE = encode_texts(self.model, [phrase.text for phrase in phrases], frozenset({self._need})).query_NGE
        if query_NGE is None:
            raise NotSupportedError("The read-out attention needs the queries of texts, and this model gives none; use pooled.")
        return query_NGE.float()

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Keys:
        """Keys."""
        if image.keys_BGSE is None or image.keys_BGSE.shape[2] < patches(image).shape[1]:
            raise NotSupportedError("The read-out attention needs the keys of patches, and this model gives none; use pooled.")
        return Keys(image.keys_BGSE.float(), patches(image).shape[1])

    def maps(self, look: Keys, asked_N: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Weights of the patches."""
        found = []
        for keys_GSE, chosen in zip(look.keys_BGSE, rows, strict=True):
            query_GRE = asked_N[torch.tensor(chosen, dtype=torch.int64)].transpose(0, 1)
            found.append((query_GRE @ keys_GSE.mT).softmax(-1).mean(0)[:, : look.patches])
        return found


class WeightReadOut(ReadOut[Tensor]):
    """Another read-out's values, made weights over the patches.

    Args:
        values: the other read-out.
        weigh: ``[…, P]`` to weights.
    """

    name = "attention"
    sentence = "weight by which the text takes up the patch"

    def __init__(self, values: VectorReadOut, weigh: Callable[[Tensor], Tensor]) -> None:
        super().__init__(values.model)
        self._values, self._weigh, self.reads_parts = values, weigh, values.reads_parts

    def ask(self, phrases: Sequence[Phrase]) -> Tensor:
        """As the other read-out."""
        return self._values.ask(phrases)

    def look(self, pixels_BCHW: Tensor, image: ImageFeatures, recorded: Recorded) -> Tensor:
        """As the other read-out."""
        return self._values.look(pixels_BCHW, image, recorded)

    def maps(self, look: Tensor, asked_N: Tensor, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """The weights of each phrase."""
        return [self._weigh(values_RP) for values_RP in self._values.maps(look, asked_N, rows)]
