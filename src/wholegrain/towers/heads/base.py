"""The plain head, which all other heads build on: CLIP's two projections, and what every head has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Self

from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.towers.base import NOTHING, Config, ImageTower, RawImage, RawText

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
    """The settings of a head: its own keys of a recipe's ``model.head_settings``. The plain head has none.

    Raises:
        UserError: a number outside its range in ``ranges``, name -> (least, greatest).
    """

    ranges: ClassVar[dict[str, tuple[float, float]]] = {}

    def __post_init__(self) -> None:
        for name, (least, most) in self.ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise UserError(f"head_settings.{name} is {value:,}; it must be a number from {least} to {most:,}")

    def resolved(self, widths: Widths) -> Self:
        """The same with what each default means for these widths."""
        return self


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


class Head(nn.Module):
    """What every head is: one projection per side, image V -> D, text V -> D, and what its class adds.

    By its class:

    * ``Settings``: its settings; ``saved`` has the name of each in :meth:`config`, and so in saved models.
    * ``begins``: settings that are only where a learned number begins, with that number's name.
    * ``gives``: what it gives losses beside patches and tokens, out of ``losses.core.contract.NEEDS``.
    * ``read_out``: the way to read phrases out of patches that it is trained for, a name of ``evaluation/read_outs``; "" says that the image
      tower decides (:attr:`wholegrain.towers.model.Model.read_out`). ``attends``: the need by which it gives queries of texts and keys of patches.
    * ``scores_pairs``: whether it scores pairs jointly, by :meth:`score`; ``score_needs`` says what of the features that needs.

    Args:
        widths: sizes.
        settings: of the class ``Settings``; ``None`` means the defaults.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[HeadSettings]] = HeadSettings
    saved: ClassVar[dict[str, str]] = {}
    begins: ClassVar[dict[str, str]] = {}
    gives: frozenset[str] = NOTHING
    read_out: ClassVar[str] = ""
    attends: ClassVar[str] = ""
    scores_pairs = False
    score_needs: frozenset[str] = NOTHING

    def __init__(self, widths: Widths, settings: HeadSettings | None = None) -> None:
        super().__init__()
        self.widths = widths
        self.settings = (self.Settings() if settings is None else settings).resolved(widths)
        self.image = _projection(widths.image_projection, widths.image, widths.shared)
        self.text = _projection(widths.text_projection, widths.text, widths.shared)

    @classmethod
    def from_settings(cls, widths: Widths, settings: HeadSettings, tower: ImageTower) -> Self:
        """A new head of this kind for a model with this image tower, which gets what the head needs of it."""
        return cls(widths, settings)

    def settings_with(self, tower: ImageTower) -> HeadSettings:
        """The settings by which :meth:`from_settings` makes this head and what it has put into its model's image tower."""
        return self.settings

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
        return self.image(required(raw.patches_BPV))

    def _patches(self, raw: RawImage, needs: frozenset[str]) -> tuple[Tensor | None, tuple[int, int] | None]:
        return (self.image(required(raw.patches_BPV)), raw.grid) if "patches" in needs else (None, None)

    def _tokens(self, raw: RawText, needs: frozenset[str]) -> tuple[Tensor | None, Tensor | None]:
        return (self.text(required(raw.tokens_NLV)), raw.mask_NL) if "tokens" in needs else (None, None)

    def keep_in_range(self) -> None:
        """Called after every optimiser step, for heads that learn what has bounds."""

    def score(self, image: ImageFeatures, text: TextFeatures) -> Tensor:
        """Joint scores ``[B, N]`` of all images with all texts, on the device of the features; of heads with ``scores_pairs``."""
        raise NotImplementedError(f"pairs of a {self.kind} head are scored by the cosine")

    def phrases_of(self, texts: Sequence[str]) -> Sequence[Sequence[str]]:
        """The noun phrases of each text, of heads whose ``score_needs`` has ``phrases``."""
        raise NotImplementedError(f"a {self.kind} head scores no phrases")

    def config(self) -> Config:
        """JSON-able; :func:`wholegrain.towers.heads.registry.build_head` makes the same head from it."""
        saved = {key: getattr(self.settings, name) for name, key in self.saved.items()}
        return {"kind": self.kind, "widths": asdict(self.widths), **saved}

    def start_from(self, other: Head) -> None:
        """Takes another head's projections."""
        self.image.load_state_dict(other.image.state_dict())
        self.text.load_state_dict(other.text.state_dict())


class PlainHead(Head):
    """CLIP's: the two projections alone."""

    kind = "plain"


def required(part: Tensor | None) -> Tensor:
    """Raw patches, tokens or class tokens that a head cannot do without.

    Raises:
        ValueError: the tower was not told to give them.
    """
    if part is None:
        raise ValueError("the raw features lack patches or tokens that were asked for; ask the tower for them with raw_needs")
    return part


def without_patches(image: ImageFeatures, needs: frozenset[str]) -> ImageFeatures:
    """The same features, whose patches go where only the head itself had a use for them."""
    return image if "patches" in needs else replace(image, patches_BPD=None, grid=None)
