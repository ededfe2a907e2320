"""Heads that pool an image by attention, with a query made of the text: what FLAIR and Llip share.

What belongs to one side is applied here, once an image and once a text. What acts on pairs (the output map of the attention) goes to
the loss in ``ImageFeatures.learned``, as the parameter itself, so that its gradient comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core import attention_pool
from wholegrain.towers.base import NOTHING, RawText
from wholegrain.towers.heads.base import Head, HeadSettings, Widths


def split_heads(width: int, wanted: int) -> int:
    """The largest number of attention heads up to ``wanted`` that divides the width.

    Example:
        >>> split_heads(512, 8), split_heads(42, 8)
        (8, 7)
    """
    return next(n for n in range(max(1, wanted), 0, -1) if width % n == 0)


@dataclass(frozen=True)
class AttentionSettings(HeadSettings):
    """Attributes:
        attention_heads: G; the largest number up to it that divides the width.
        pool_temperature: of the softmax over what is pooled; 0 is 1.
    """

    attention_heads: int = 8
    pool_temperature: float = 0.0
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"attention_heads": (1, 1024), "pool_temperature": (0, 1000)}

    def inner_width(self, widths: Widths) -> int:
        """A, of what is pooled and of queries, keys and values: the shared width."""
        return widths.shared

    def resolved(self, widths: Widths) -> Self:
        """A number of heads that divides the width, and a temperature."""
        heads = split_heads(self.inner_width(widths), self.attention_heads)
        return replace(self, attention_heads=heads, pool_temperature=self.pool_temperature or 1.0)


class AttentionHead(Head):
    """Maps of queries (D -> A), of keys and values (A -> A) and of what comes out (A -> D)."""

    Settings = AttentionSettings
    saved: ClassVar[dict[str, str]] = {"attention_heads": "heads", "pool_temperature": "temperature"}
    gives = frozenset({"slots"})
    scores_pairs = True
    score_needs = frozenset({"slots"})
    settings: AttentionSettings

    def __init__(self, widths: Widths, settings: AttentionSettings | None = None) -> None:
        super().__init__(widths, settings)
        inner = self.settings.inner_width(widths)
        self.query = nn.Linear(widths.shared, inner)
        self.key = nn.Linear(inner, inner)
        self.value = nn.Linear(inner, inner)
        self.mix = nn.Linear(inner, widths.shared)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.query, self.key, self.value, self.mix):
            nn.init.zeros_(layer.bias)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Slots are made here."""
        return super().raw_needs(needs) - self.gives

    @property
    def learned(self) -> dict[str, Tensor]:
        """What acts on pairs."""
        return {"mix_DA": self.mix.weight, "mix_D": self.mix.bias}

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """See :mod:`wholegrain.losses.core.attention_pool`."""
        learned = {name: x.to(image.pooled_BD.device) for name, x in self.learned.items()}
        return attention_pool.score(image, text, learned)

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """The plain features, with queries if ``needs`` holds ``slots``."""
        text = super().project_text(raw, needs)
        if "slots" not in needs:
            return text
        query_NGE = self._split(self.query(self._query_input(text.pooled_ND)))
        return replace(text, query_NGE=query_NGE / (query_NGE.shape[-1] ** 0.5 * self.settings.pool_temperature))

    def _query_input(self, pooled_ND: Tensor) -> Tensor:
        return pooled_ND

    def _split(self, x: Tensor) -> Tensor:
        """``[..., A]`` to ``[..., G, E]``."""
        return x.unflatten(-1, (self.settings.attention_heads, -1))

    def _slots(self, keys_BSA: Tensor, values_BSA: Tensor) -> Mapping[str, object]:
        """Fields of :class:`ImageFeatures`."""
        named = {"keys_BGSE": keys_BSA, "values_BGSE": values_BSA}
        return {name: self._split(x).transpose(1, 2) for name, x in named.items()} | {"learned": self.learned}
