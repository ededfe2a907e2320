"""Heads of methods whose score of a pair needs both sides, and what they learn.

* :class:`FilipHead`: nothing of its own; patches and tokens through the plain projections, scored word by patch (FILIP).
* :class:`PaclHead`: a residual layer on patches (PACL).
* :class:`MgcaHead`: prototypes (MGCA); pairs are scored by the cosine.
* :class:`FlairHead`: an attention pooling whose query is the text (FLAIR).
* :class:`LlipHead`: mixture tokens that the text mixes (Llip).

What belongs to one side is applied here, once an image and once a text. What acts on pairs (the output map of an attention) goes to
the loss in ``ImageFeatures.learned``, as the parameter itself, so that its gradient comes back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses import filip
from wholegrain.losses.core import attention_pool
from wholegrain.losses.text_conditioned import text_conditioned_scores
from wholegrain.towers.base import NOTHING, RawImage, RawText
from wholegrain.towers.heads.base import HeadSettings, PlainHead, Widths, within
from wholegrain.towers.heads.branches import BranchReadout, TokenSettings, branch_source, token_settings

if TYPE_CHECKING:
    from wholegrain.towers.model import Model


def split_heads(width: int, wanted: int) -> int:
    """The largest number of attention heads up to ``wanted`` that divides the width.

    Example:
        >>> split_heads(512, 8), split_heads(42, 8)
        (8, 7)
    """
    return next(n for n in range(max(1, wanted), 0, -1) if width % n == 0)


class FilipHead(PlainHead):
    """FILIP: the plain head; pairs are scored by the mean of both directions' best matches (:func:`wholegrain.losses.filip.score`)."""

    kind = "filip"
    score_needs = frozenset({"patches", "tokens"})

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``[B, N]``, on the device of the features."""
        return filip.score(image, text)


@dataclass(frozen=True)
class PaclSettings(HeadSettings):
    """Attributes:
        pool_temperature: of the softmax over patches, in cosines; 0 is 0.1.
    """

    pool_temperature: float = 0.0

    def __post_init__(self) -> None:
        within(self, pool_temperature=(0, 1000))

    def resolved(self, widths: Widths) -> Self:
        """0 is 0.1."""
        return replace(self, pool_temperature=self.pool_temperature or 0.1)


class PaclHead(PlainHead):
    """PACL: patches get ``W x + W2 gelu(W1 x)``; texts and the pooled image keep the plain projections.

    The paper's vision embedder is a residual two-layer perceptron; here W2 = 0 at the start, so it starts as the base model. Pairs
    are scored by pooling patches with the text: a softmax of cosines / ``temperature``.
    """

    kind = "pacl"
    Settings = PaclSettings
    score_needs = frozenset({"patches"})

    @classmethod
    def asked(cls, model: Model, widths: Widths, settings: PaclSettings) -> PaclHead:
        """A new head."""
        return cls(widths, settings.resolved(widths).pool_temperature)

    def settings(self, model: Model) -> PaclSettings:
        """What it was asked for."""
        return PaclSettings(self.temperature)

    def __init__(self, widths: Widths, temperature: float = 0.1) -> None:
        super().__init__(widths)
        self.temperature = temperature
        self.patch_in = nn.Linear(widths.image, widths.shared)
        self.patch_out = nn.Linear(widths.shared, widths.shared)
        nn.init.zeros_(self.patch_out.weight)
        nn.init.zeros_(self.patch_out.bias)

    def _patches(self, raw: RawImage, needs: frozenset[str]) -> tuple[Tensor | None, tuple[int, int] | None]:
        patches_BPD, grid = super()._patches(raw, needs)
        if patches_BPD is None:
            return None, None
        return patches_BPD + self.patch_out(gelu(self.patch_in(raw.patches_BPV))), grid

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``[B, N]``, on the device of the features."""
        if image.patches_BPD is None:
            raise ValueError("PACL scores patches; encode with needs={'patches'}")
        return text_conditioned_scores(image.patches_BPD, text.pooled_ND, self.temperature)

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        return {**super().config(), "temperature": self.temperature}


@dataclass(frozen=True)
class MgcaSettings(HeadSettings):
    """Attributes:
        prototypes: K.
    """

    prototypes: int = 500

    def __post_init__(self) -> None:
        within(self, prototypes=(1, 2**18))


class MgcaHead(PlainHead):
    """MGCA: K prototypes beside the plain projections; random unit vectors at the start."""

    kind = "mgca"
    Settings = MgcaSettings
    gives = frozenset({"prototypes"})

    @classmethod
    def asked(cls, model: Model, widths: Widths, settings: MgcaSettings) -> MgcaHead:
        """A new head."""
        return cls(widths, settings.prototypes)

    def settings(self, model: Model) -> MgcaSettings:
        """What it was asked for."""
        return MgcaSettings(len(self.prototypes_KD))

    def __init__(self, widths: Widths, prototypes: int = 500) -> None:
        super().__init__(widths)
        self.prototypes_KD = nn.Parameter(normalize(torch.randn(prototypes, widths.shared), dim=-1))

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Prototypes are no business of the towers."""
        return super().raw_needs(needs) - self.gives

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with the prototypes."""
        return replace(super().project_image(raw, needs), learned={"prototypes_KD": self.prototypes_KD})

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        return {**super().config(), "prototypes": len(self.prototypes_KD)}


class AttentionHead(PlainHead):
    """What FLAIR and Llip share: maps of queries, keys, values (D or V -> A) and of what comes out (A -> D)."""

    gives = frozenset({"slots"})
    score_needs = frozenset({"slots"})

    def __init__(self, widths: Widths, slot_width: int, inner: int, heads: int, temperature: float) -> None:
        super().__init__(widths)
        self.heads = split_heads(inner, heads)
        self.temperature = temperature
        self.query = nn.Linear(widths.shared, inner)
        self.key = nn.Linear(slot_width, inner)
        self.value = nn.Linear(slot_width, inner)
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

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """``[B, N]``, on the device of the features."""
        learned = {name: x.to(image.pooled_BD.device) for name, x in self.learned.items()}
        return attention_pool.score(image, text, learned)

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """The plain features, with queries if ``needs`` holds ``slots``."""
        text = super().project_text(raw, needs)
        if "slots" not in needs:
            return text
        query_NGE = self._heads_of(self.query(self._asked(text.pooled_ND)))
        return replace(text, query_NGE=query_NGE / (query_NGE.shape[-1] ** 0.5 * self.temperature))

    def _asked(self, pooled_ND: Tensor) -> Tensor:
        return pooled_ND

    def _heads_of(self, x: Tensor) -> Tensor:
        """``[..., A]`` to ``[..., G, E]``."""
        return x.unflatten(-1, (self.heads, -1))

    def _slots(self, keys_BSA: Tensor, values_BSA: Tensor) -> dict[str, Any]:
        named = {"keys_BGSE": keys_BSA, "values_BGSE": values_BSA}
        return {name: self._heads_of(x).transpose(1, 2) for name, x in named.items()} | {"learned": self.learned}

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        return {**super().config(), "heads": self.heads, "temperature": self.temperature}


@dataclass(frozen=True)
class FlairSettings(HeadSettings):
    """Attributes:
        attention_heads: G; the largest number up to it that divides the width.
        pool_temperature: of the softmax over patches; 0 is 1.
    """

    attention_heads: int = 8
    pool_temperature: float = 0.0

    def __post_init__(self) -> None:
        within(self, attention_heads=(1, 1024), pool_temperature=(0, 1000))

    def resolved(self, widths: Widths) -> Self:
        """A number of heads that divides the width, and a temperature."""
        heads = split_heads(widths.shared, self.attention_heads)
        return replace(self, attention_heads=heads, pool_temperature=self.pool_temperature or 1.0)


class FlairHead(AttentionHead):
    """FLAIR: one attention of 8 heads; the text's vector asks, projected patches answer, each side normalised first.

    ``q = Wq LN(t)``, ``k = Wk LN(v)``, ``w = Wv LN'(v)``, an empty slot (key and value zero) beside the patches, an output map, no
    residual, as released. The release starts all maps at random; here Wv and the output map start as the identity, so a pooled
    image starts as a nearly even mean of normalised patches.
    """

    kind = "flair"
    Settings = FlairSettings

    @classmethod
    def asked(cls, model: Model, widths: Widths, settings: FlairSettings) -> FlairHead:
        """A new head."""
        return cls(widths, settings.attention_heads, settings.resolved(widths).pool_temperature)

    def settings(self, model: Model) -> FlairSettings:
        """What it was asked for."""
        return FlairSettings(self.heads, self.temperature)

    def __init__(self, widths: Widths, heads: int = 8, temperature: float = 1.0) -> None:
        super().__init__(widths, widths.shared, widths.shared, heads, temperature)
        self.norm_query, self.norm_key, self.norm_value = (nn.LayerNorm(widths.shared) for _ in range(3))
        nn.init.eye_(self.value.weight)
        nn.init.eye_(self.mix.weight)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Slots are made of patches."""
        return super().raw_needs(needs) | ({"patches"} if "slots" in needs else NOTHING)

    def _asked(self, pooled_ND: Tensor) -> Tensor:
        return self.norm_query(pooled_ND)

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with slots if ``needs`` holds them."""
        if "slots" not in needs:
            return super().project_image(raw, needs)
        image = super().project_image(raw, needs | {"patches"})
        assert image.patches_BPD is not None
        keys_BPA, values_BPA = self.key(self.norm_key(image.patches_BPD)), self.value(self.norm_value(image.patches_BPD))
        if "patches" not in needs:
            image = replace(image, patches_BPD=None, grid=None)
        return replace(image, **self._slots(*(nn.functional.pad(x, (0, 0, 0, 1)) for x in (keys_BPA, values_BPA))))


@dataclass(frozen=True)
class LlipSettings(TokenSettings):
    """Attributes:
        mixtures: K mixture tokens.
        attention_heads: G; the largest number up to it that divides the tower's width.
        pool_temperature: of the softmax over mixtures; 0 is 1.
    """

    mixtures: int = 64
    attention_heads: int = 8
    pool_temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, mixtures=(1, 2**13), attention_heads=(1, 1024), pool_temperature=(0, 1000))

    def resolved(self, widths: Widths) -> Self:
        """A number of heads that divides the width, and a temperature."""
        heads = split_heads(widths.image, self.attention_heads)
        return replace(self, attention_heads=heads, pool_temperature=self.pool_temperature or 1.0)


class LlipHead(AttentionHead):
    """Llip: K mixture tokens of the image tower; the text mixes them, ``z = Wo concat_g( sum_k a_k Wv h_k )``.

    They are the class tokens of :mod:`wholegrain.towers.branch_tokens` (masked from one another there, free in the paper), or for other
    and frozen towers learned read-outs of the patches. Wv starts as the identity and Wo as the base's projection, so with equal
    tokens every mixture starts as the base's vector. The pooled image is the even mixture. The base's projection of images stays
    as it was, for patches alone.
    """

    kind = "llip"
    Settings = LlipSettings

    @classmethod
    def asked(cls, model: Model, widths: Widths, settings: LlipSettings) -> LlipHead:
        """A new head; mixture tokens are put into the image tower where they belong there."""
        source = branch_source(model, settings, settings.mixtures)
        temperature = settings.resolved(widths).pool_temperature
        return cls(widths, settings.mixtures, source, settings.attention_heads, temperature, settings.noise)

    def settings(self, model: Model) -> LlipSettings:
        """What it was asked for."""
        given = token_settings(model, self.source)
        return LlipSettings(**given, mixtures=self.mixtures, attention_heads=self.heads, pool_temperature=self.temperature)

    def __init__(
        self,
        widths: Widths,
        mixtures: int = 64,
        source: str = "tokens",
        heads: int = 8,
        temperature: float = 1.0,
        noise: float = 0.02,
    ) -> None:
        super().__init__(widths, widths.image, widths.image, heads, temperature)
        self.mixtures, self.source = mixtures, source
        self.readout = BranchReadout(widths.image, mixtures, noise) if source == "readout" else None
        nn.init.eye_(self.value.weight)
        self.image.requires_grad_(False)  # the loss never sees it, and DDP waits for every gradient

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Read-outs need patches; tokens come with the tower."""
        return super().raw_needs(needs) | ({"patches"} if self.readout is not None else NOTHING)

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The even mixture, and slots if ``needs`` holds them."""
        classes_BKV = raw.classes_BHV
        if self.readout is not None:
            assert raw.patches_BPV is not None, "raw_needs asks for patches"
            classes_BKV = self.readout(raw.pooled_BV, raw.patches_BPV)
        assert classes_BKV is not None, "the tower was given mixture tokens"
        values_BKA = self.value(classes_BKV)
        image = ImageFeatures(self.mix(values_BKA.mean(1)), None, *self._patches(raw, needs))
        return replace(image, **self._slots(self.key(classes_BKV), values_BKA)) if "slots" in needs else image

    def start_from(self, other: nn.Module) -> None:
        """Takes the projections; the output map starts as the image's."""
        super().start_from(other)
        with torch.no_grad():
            columns = self.image(torch.eye(self.widths.image, device=self.mix.weight.device))
            bias = self.image(torch.zeros(self.widths.image, device=self.mix.weight.device))
            self.mix.weight.copy_((columns - bias).T)
            self.mix.bias.copy_(bias)

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        return {**super().config(), "mixtures": self.mixtures, "source": self.source}


HEADS: tuple[type[PlainHead], ...] = (FilipHead, PaclHead, MgcaHead, FlairHead, LlipHead)

