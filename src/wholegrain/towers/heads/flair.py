"""FLAIR's head (Xiao et al., CVPR 2025): an attention pooling of patches whose query is the text."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from wholegrain.features import ImageFeatures
from wholegrain.towers.base import NOTHING, RawImage
from wholegrain.towers.heads.attention import AttentionHead, AttentionSettings
from wholegrain.towers.heads.base import Widths, required, without_patches


class FlairHead(AttentionHead):
    """One attention of 8 heads; the query is the text's vector, keys and values are projected patches, each side normalised first.

    ``q = Wq LN(t)``, ``k = Wk LN(v)``, ``w = Wv LN'(v)``, an empty slot (key and value zero) beside the patches, an output map, no
    residual, as released. The release starts all maps at random; here Wv and the output map start as the identity, so a pooled
    image starts as a nearly even mean of normalised patches.
    """

    kind = "flair"
    read_out, attends = "attention", "slots"

    def __init__(self, widths: Widths, settings: AttentionSettings | None = None) -> None:
        super().__init__(widths, settings)
        self.norm_query, self.norm_key, self.norm_value = (nn.LayerNorm(widths.shared) for _ in range(3))
        nn.init.eye_(self.value.weight)
        nn.init.eye_(self.mix.weight)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Slots are made of patches."""
        return super().raw_needs(needs) | ({"patches"} if "slots" in needs else NOTHING)

    def _query_input(self, pooled_ND: Tensor) -> Tensor:
        return self.norm_query(pooled_ND)

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """The plain features, with slots if ``needs`` holds them."""
        if "slots" not in needs:
            return super().project_image(raw, needs)
        image = super().project_image(raw, needs | {"patches"})
        patches_BPD = required(image.patches_BPD)
        keys_BPA, values_BPA = self.key(self.norm_key(patches_BPD)), self.value(self.norm_value(patches_BPD))
        slots = self._slots(*(nn.functional.pad(x, (0, 0, 0, 1)) for x in (keys_BPA, values_BPA)))
        return replace(without_patches(image, needs), **slots)
