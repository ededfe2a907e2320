"""The plain head, which all other heads build on: CLIP's two projections, and what every head has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.towers.base import NOTHING, RawImage, RawText

if TYPE_CHECKING:
    from wholegrain.towers.model import Model

PROJECTIONS = ("linear", "linear_bias", "identity")


@dataclass(frozen=True)
class Widths:
    """The sizes of a head: V of the image tower, V of the text tower, shared D, and the form of each projection
    (:data:`PROJECTIONS`)."""

    image: int
    text: int
    shared: int
    image_projection: str = "linear"
    text_projection: str = "linear"


@dataclass(frozen=True)
class HeadSettings:
    """What is asked of a head: its own keys of a recipe's ``model.head_settings``. The plain head has none."""

    def resolved(self, widths: Widths) -> Self:
        """The same with what each default means for these widths."""
        return self


def within(settings: HeadSettings, **ranges: tuple[float, float]) -> None:
    """Raises :class:`UserError` for a number outside its range (least, greatest)."""
    for name, (least, most) in ranges.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise UserError(f"head_settings.{name} is {value:,}; it must be a number from {least} to {most:,}")


def _projection(form: str, width: int, shared: int) -> nn.Module:
    if form == "identity":
        if width != shared:
            raise UserError(f"a tower of width {width} needs a projection to the shared width {shared}; use 'linear'")
        return nn.Identity()
    layer = nn.Linear(width, shared, bias=form == "linear_bias")
    nn.init.normal_(layer.weight, std=width**-0.5)  # CLIP's initialisation
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class PlainHead(nn.Module):
    """One projection per side: image V -> D, text V -> D.

    Other heads may give losses more than patches and tokens (``gives``, out of ``losses.contract.NEEDS``), and may score pairs
    jointly: then ``score(images, texts) -> [B, N]`` is not ``None`` and ``score_needs`` says what of the features it needs. ``Settings`` is
    the class of what may be asked of a head of this kind.
    """

    kind = "plain"
    Settings: ClassVar[type[HeadSettings]] = HeadSettings
    gives: frozenset[str] = NOTHING
    score_needs: frozenset[str] = NOTHING
    score: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.image = _projection(widths.image_projection, widths.image, widths.shared)
        self.text = _projection(widths.text_projection, widths.text, widths.shared)

    @classmethod
    def asked(cls, model: Model, widths: Widths, settings: Any) -> PlainHead:
        """A new head of this kind for a model, whose image tower gets what the head needs of it."""
        return cls(widths)

    def settings(self, model: Model) -> HeadSettings:
        """What this head, in its model, was asked for (:meth:`HeadSettings.resolved`)."""
        return HeadSettings()

    @property
    def width(self) -> int:
        """D."""
        return self.widths.shared

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """What the head learns beside the two projections, which a fine-tuned model brings along."""
        base = {id(p) for side in (self.image, self.text) for p in side.parameters()}
        return (p for p in self.parameters() if id(p) not in base)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """What the towers must give so that this head can give ``needs``."""
        if "branches" in needs:
            raise UserError(f"the model's head {self.kind!r} has no branches; set head = \"branches\" in the recipe's [model]")
        return needs

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """:class:`RawImage` to shared width; patches only if ``needs`` holds them."""
        return ImageFeatures(self.image(raw.pooled_BV), None, *self._patches(raw, needs))

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """:class:`RawText` to shared width; tokens only if ``needs`` holds them."""
        return TextFeatures(self.text(raw.pooled_NV), *self._tokens(raw, needs))

    def patches_as_images(self, raw: RawImage) -> Tensor:
        """Raw patches to ``[B, P, D]`` by the way that a pooled vector goes; where that has no layer of its own, as patches always."""
        return self.image(there(raw.patches_BPV))

    def _patches(self, raw: RawImage, needs: frozenset[str]) -> tuple[Tensor | None, tuple[int, int] | None]:
        return (self.image(there(raw.patches_BPV)), raw.grid) if "patches" in needs else (None, None)

    def _tokens(self, raw: RawText, needs: frozenset[str]) -> tuple[Tensor | None, Tensor | None]:
        return (self.text(there(raw.tokens_NLV)), raw.mask_NL) if "tokens" in needs else (None, None)

    def keep_in_range(self) -> None:
        """Called after every optimiser step, for heads that learn what has bounds."""

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        return {"kind": self.kind, "widths": asdict(self.widths)}

    def start_from(self, other: nn.Module) -> None:
        """Takes another head's projections."""
        for side in ("image", "text"):
            getattr(self, side).load_state_dict(getattr(other, side).state_dict())


def there(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError("the raw features lack patches or tokens that were asked for; ask the tower for them with raw_needs")
    return part
