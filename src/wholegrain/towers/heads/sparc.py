"""SPARC's head: adapters that make global and local vectors of one space (Bica et al., ICML 2024, section 3 and appendix D)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.towers.base import NOTHING, RawImage, RawText, masked_mean
from wholegrain.towers.heads.base import Head, HeadSettings, Widths, required


@dataclass(frozen=True)
class SparcSettings(HeadSettings):
    """Attributes:
        hidden: width inside h_v; 0 is the tower's width (the paper gives neither width nor activation).
    """

    hidden: int = 0
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"hidden": (0, 2**14)}

    def resolved(self, widths: Widths) -> Self:
        """0 is the tower's width."""
        return replace(self, hidden=self.hidden or widths.image)


class SparcHead(Head):
    """SPARC: ``patch = g_v(F_p)``, ``image = g_v(h_v(mean_p F_p))``, ``token = g_t(F_l)``, ``text = g_t(mean_l F_l)``.

    One linear g_v serves the global and the local image path, one linear g_t both text paths, and h_v, "a single non-linear
    layer", stands on the global image path only (and in the paper's segmentation: :meth:`patches_as_images`). The paper gives h_v
    neither width nor activation, and trains from scratch. Here ``h_v(x) = x + W2 gelu(W1 x)`` with W2 = 0 at the start, so a warm
    start from a model that pools by means of its normalised patches and tokens is exact; a class-token CLIP or one that pools its
    last token changes at once, since SPARC has no class token. The mean of a text runs over all real tokens, start and end tokens
    included.
    """

    kind = "sparc"
    read_out = "token"
    Settings = SparcSettings
    saved: ClassVar[dict[str, str]] = {"hidden": "hidden"}
    settings: SparcSettings

    def __init__(self, widths: Widths, settings: SparcSettings | None = None) -> None:
        super().__init__(widths, settings)
        hidden = self.settings.hidden
        self.global_in = nn.Linear(widths.image, hidden)
        self.global_out = nn.Linear(hidden, widths.image)
        nn.init.zeros_(self.global_out.weight)
        nn.init.zeros_(self.global_out.bias)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Patches and tokens always: the global vectors are their means."""
        return super().raw_needs(needs) | {"patches", "tokens"}

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """As above; needs raw patches."""
        pooled_BD = self.image(self._global(required(raw.patches_BPV).mean(1)))
        return ImageFeatures(pooled_BD, None, *self._patches(raw, needs))

    def patches_as_images(self, raw: RawImage) -> Tensor:
        """``g_v(h_v(F_p))``: what the paper's segmentation reads (appendix D.7), so that patches meet texts as whole images do."""
        return self.image(self._global(required(raw.patches_BPV)))

    def _global(self, x: Tensor) -> Tensor:
        """h_v."""
        return x + self.global_out(nn.functional.gelu(self.global_in(x)))

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """As above; needs raw tokens."""
        return TextFeatures(self.text(masked_mean(required(raw.tokens_NLV), raw.mask_NL)), *self._tokens(raw, needs))
