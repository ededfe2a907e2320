"""Heads: everything that is learned between a tower's own width V and the shared width D.

* :class:`PlainHead`: CLIP's two projections (Radford et al. 2021), applied to pooled vectors, patches and tokens alike.
* :class:`SparcHead`: SPARC's adapters (Bica et al., ICML 2024, section 3 and appendix D).
* :class:`BranchHead`: Holistic CLIP's branches (Wang et al., CVPR 2025) through one shared projection.
* :mod:`wholegrain.towers.pair_heads`: heads of methods that score pairs jointly (FILIP, PACL, FLAIR, Llip), and MGCA's prototypes.
* :mod:`wholegrain.towers.fusion`: a network that reads image and text together (ALBEF, X-VLM).
* :mod:`wholegrain.towers.cosmos`: images and words that attend to each other in training (COSMOS).

Any head can start from another's projections (:func:`convert_head`), so that a fine-tuning recipe begins as its base model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.suggest import closest
from wholegrain.towers.tower import NOTHING, RawImage, RawText, masked_mean

if TYPE_CHECKING:
    from wholegrain.towers.model import Model

PROJECTIONS = ("linear", "linear_bias", "identity")


@dataclass(frozen=True)
class HeadConfig:
    """Which head a model gets.

    Attributes:
        kind: ``plain``, ``sparc``, ``branches``, ``fusion``, or one of :mod:`wholegrain.towers.pair_heads`.
        hidden: width inside SPARC's h_v; 0 is the tower's width (the paper gives neither width nor activation).
        branches: H, for ``branches``.
        source: where branches come from: ``tokens`` (class tokens inside the image tower), ``readout`` (H learned attention
            read-outs of the patches, for CNNs and frozen towers), ``mlp`` (streams of a Vision Transformer's last blocks, see
            :mod:`wholegrain.towers.mlp_branches`), ``auto`` (tokens where the tower can hold and train them).
        branch_blocks: K, the last blocks of which ``mlp`` makes streams; 0 is the paper's three, or all of a tower with fewer.
        patches_see, legacy_plus_one, noise: see :mod:`wholegrain.towers.branches`; also of Llip's mixture tokens.
        mixtures: K mixture tokens, for ``llip``; they come from where ``source`` says.
        attention_heads: G, for ``flair``, ``llip``, ``fusion`` and ``cosmos``; the largest number up to it that divides the width.
        pool_temperature: of ``llip``'s and ``pacl``'s softmax; 0 is the method's default.
        prototypes: K, for ``mgca``.
        layers, fusion_width, score_cosine: of ``fusion``: how many, their width (0 is the shared width), and the weight of the
            cosine in the score.
    """

    kind: Literal["plain", "sparc", "branches", "filip", "pacl", "mgca", "flair", "llip", "fusion", "cosmos"] = "plain"
    hidden: int = 0
    branches: int = 5
    source: Literal["auto", "tokens", "readout", "mlp"] = "auto"
    branch_blocks: int = 0
    patches_see: Literal["auto", "shared", "all", "none"] = "auto"
    legacy_plus_one: bool = False
    noise: float = 0.02
    mixtures: int = 64
    attention_heads: int = 8
    pool_temperature: float = 0.0
    prototypes: int = 500
    layers: int = 3
    fusion_width: int = 0
    score_cosine: float = 0.0


@dataclass(frozen=True)
class Widths:
    """The sizes of a head: V of the image tower, V of the text tower, shared D, and the form of each projection
    (:data:`PROJECTIONS`)."""

    image: int
    text: int
    shared: int
    image_projection: str = "linear"
    text_projection: str = "linear"


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
    jointly: then ``score(images, texts) -> [B, N]`` is not ``None`` and ``score_needs`` says what of the features it needs.
    """

    kind = "plain"
    gives: frozenset[str] = NOTHING
    score_needs: frozenset[str] = NOTHING
    score: Callable[[ImageFeatures, TextFeatures], Tensor] | None = None

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.image = _projection(widths.image_projection, widths.image, widths.shared)
        self.text = _projection(widths.text_projection, widths.text, widths.shared)

    @property
    def width(self) -> int:
        """D."""
        return self.widths.shared

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

    def _patches(self, raw: RawImage, needs: frozenset[str]) -> tuple[Tensor | None, tuple[int, int] | None]:
        return (self.image(_there(raw.patches_BPV)), raw.grid) if "patches" in needs else (None, None)

    def _tokens(self, raw: RawText, needs: frozenset[str]) -> tuple[Tensor | None, Tensor | None]:
        return (self.text(_there(raw.tokens_NLV)), raw.mask_NL) if "tokens" in needs else (None, None)

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`build_head` makes the same head from it."""
        return {"kind": self.kind, "widths": asdict(self.widths)}

    def start_from(self, other: nn.Module) -> None:
        """Takes another head's projections."""
        for side in ("image", "text"):
            getattr(self, side).load_state_dict(getattr(other, side).state_dict())


def _there(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError("the raw features lack patches or tokens that were asked for; ask the tower for them with raw_needs")
    return part


class SparcHead(PlainHead):
    """SPARC: ``patch = g_v(F_p)``, ``image = g_v(h_v(mean_p F_p))``, ``token = g_t(F_l)``, ``text = g_t(mean_l F_l)``.

    One linear g_v serves the global and the local image path, one linear g_t both text paths, and h_v, "a single non-linear
    layer", stands on the global image path only. The paper gives h_v neither width nor activation, and trains from scratch. Here
    ``h_v(x) = x + W2 gelu(W1 x)`` with W2 = 0 at the start, so a warm start from a model that pools by means of its normalised
    patches and tokens is exact; a class-token CLIP or one that pools its last token changes at once, since SPARC has no class
    token. The mean of a text runs over all real tokens, start and end tokens included.
    """

    kind = "sparc"

    def __init__(self, widths: Widths, hidden: int = 0) -> None:
        super().__init__(widths)
        self.hidden = hidden or widths.image
        self.global_in = nn.Linear(widths.image, self.hidden)
        self.global_out = nn.Linear(self.hidden, widths.image)
        nn.init.zeros_(self.global_out.weight)
        nn.init.zeros_(self.global_out.bias)

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Patches and tokens always: the global vectors are their means."""
        return super().raw_needs(needs) | {"patches", "tokens"}

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """As above; needs raw patches."""
        mean_BV = _there(raw.patches_BPV).mean(1)
        whole_BV = mean_BV + self.global_out(nn.functional.gelu(self.global_in(mean_BV)))
        return ImageFeatures(self.image(whole_BV), None, *self._patches(raw, needs))

    def project_text(self, raw: RawText, needs: frozenset[str] = NOTHING) -> TextFeatures:
        """As above; needs raw tokens."""
        return TextFeatures(self.text(masked_mean(_there(raw.tokens_NLV), raw.mask_NL)), *self._tokens(raw, needs))

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`build_head` makes the same head from it."""
        return {**super().config(), "hidden": self.hidden}


class BranchReadout(nn.Module):
    """H raw branches from patches alone, for towers that cannot hold class tokens (CNNs) or must not change (frozen ones).

    Branch h is ``pooled + gate_h * sum_p a_hp patch_p``: another weighting of the patches, with the channels in groups that are
    weighted apart (the heads of attention pooling). Ours, not the paper's, which has Vision Transformers only. Gates start at
    zero plus noise, so every branch starts as the base's own vector.
    """

    def __init__(self, width: int, branches: int, noise: float = 0.02, key_width: int = 64) -> None:
        super().__init__()
        self.groups = next(n for n in (8, 4, 2, 1) if width % n == 0)
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, self.groups * key_width)
        self.queries_HGK = nn.Parameter(torch.randn(branches, self.groups, key_width) * key_width**-0.5)
        self.gate_HV = nn.Parameter(torch.randn(branches, width) * noise)

    def forward(self, pooled_BV: Tensor, patches_BPV: Tensor) -> Tensor:
        """``[B, V]`` and ``[B, P, V]`` to ``[B, H, V]``."""
        B, P, V = patches_BPV.shape
        keys_BPGK = self.keys(self.norm(patches_BPV)).view(B, P, self.groups, -1)
        weight_BHGP = torch.einsum("hgk,bpgk->bhgp", self.queries_HGK, keys_BPGK).softmax(-1)
        values_BPGC = patches_BPV.view(B, P, self.groups, -1)
        seen_BHV = torch.einsum("bhgp,bpgc->bhgc", weight_BHGP, values_BPGC).reshape(B, -1, V)
        return pooled_BV[:, None] + self.gate_HV * seen_BHV


class BranchHead(PlainHead):
    """Holistic CLIP: H raw branches through one shared projection; ``pooled`` is the mean of the *unit* branches.

    The paper scores a pair by the mean of the H branches' cosines. That mean is linear, so it equals the dot product of a unit
    text vector with the mean of the unit branches, *not* renormalised: an image whose branches disagree has a shorter mean. A
    metric that normalises ``pooled_BD`` drops that length: nothing changes when ranking texts for an image, but ranking images
    for a text may.
    """

    kind = "branches"

    def __init__(self, widths: Widths, branches: int = 5, source: str = "tokens", noise: float = 0.02) -> None:
        super().__init__(widths)
        self.branches = branches
        self.source = source
        self.readout = BranchReadout(widths.image, branches, noise) if source == "readout" else None

    def raw_needs(self, needs: frozenset[str]) -> frozenset[str]:
        """Read-outs need patches; class tokens come with the tower."""
        return needs | {"patches"} if self.readout is not None else needs

    def project_image(self, raw: RawImage, needs: frozenset[str] = NOTHING) -> ImageFeatures:
        """All branches, always; patches if asked for."""
        if self.readout is not None:
            classes_BHV = self.readout(raw.pooled_BV, _there(raw.patches_BPV))
        else:
            classes_BHV = _there(raw.classes_BHV)
        branches_BHD = self.image(classes_BHV)
        pooled_BD = nn.functional.normalize(branches_BHD.float(), dim=-1).mean(1).to(branches_BHD.dtype)
        return ImageFeatures(pooled_BD, branches_BHD, *self._patches(raw, needs))

    def config(self) -> dict[str, Any]:
        """JSON-able; :func:`build_head` makes the same head from it."""
        return {**super().config(), "branches": self.branches, "source": self.source}


def head_kinds() -> dict[str, type[PlainHead]]:
    """Every head by its name in recipes and saved models."""
    from wholegrain.towers import cosmos, fusion, pair_heads

    others = (*pair_heads.HEADS, fusion.FusionHead, cosmos.CosmosHead)
    return {kind.kind: kind for kind in (PlainHead, SparcHead, BranchHead, *others)}


def build_head(config: dict[str, Any]) -> PlainHead:
    """The head that ``config()`` described, with fresh weights."""
    settings = dict(config)
    kind = settings.pop("kind")
    return head_kinds()[kind](Widths(**settings.pop("widths")), **settings)


def convert_head(model: Model, config: HeadConfig | str) -> Model:
    """Gives a model another head that starts from its projections; changes the model in place and returns it.

    Most heads keep the towers. ``branches`` also puts H class tokens into the image tower, or read-outs into the head, and
    ``llip`` K mixture tokens likewise. A model that has the wanted head already is left alone. See the classes for when the start
    is exact.

    Raises:
        UserError: an unknown kind, or a model with branches that should lose them or get another number.
    """
    config = HeadConfig(kind=config) if isinstance(config, str) else config  # type: ignore[arg-type]
    if config.kind not in head_kinds():
        raise UserError(f"there is no head {config.kind!r}; {closest(config.kind, head_kinds())}")
    old = model.head
    if isinstance(old, BranchHead):
        if config.kind == "branches" and config.branches == old.branches:
            return model
        raise UserError(f"the model has {old.branches} branches and cannot get another head; start from a model without branches")
    if config.kind == old.kind:
        return model
    if old.kind == "llip":
        raise UserError("the model has mixture tokens and cannot get another head; start from a model without them")
    model.head = _converted(model, old, config).to(next(model.parameters()).device)
    model.head.start_from(old)
    return model


def _converted(model: Model, old: PlainHead, config: HeadConfig) -> PlainHead:
    widths = replace(old.widths)
    if config.kind == "plain":
        return PlainHead(widths)
    if config.kind == "sparc":
        return SparcHead(widths, config.hidden)
    if config.kind == "branches":
        return BranchHead(widths, config.branches, branch_source(model, config, config.branches), config.noise)
    from wholegrain.towers import cosmos, fusion, pair_heads

    if config.kind == "fusion":
        return fusion.converted(widths, config)
    if config.kind == "cosmos":
        return cosmos.converted(widths, config)
    return pair_heads.converted(model, widths, config)


def branch_source(model: Model, config: HeadConfig, count: int) -> str:
    """Puts ``count`` class tokens, or streams, into the image tower where they belong there, and says where branches come from."""
    tower: Any = model.image_tower
    source = config.source
    if source not in ("auto", "tokens", "readout", "mlp"):
        raise UserError(f"head_settings.source is {source!r}; use auto, tokens, readout or mlp")
    if source == "mlp":
        if config.kind != "branches" or model.image_frozen:
            why = "the image tower is frozen" if config.kind == "branches" else f"the head is {config.kind!r}"
            raise UserError(f"source = 'mlp' makes branches of the image tower's own blocks, and {why}; use source = 'auto'")
        tower.add_mlp_branches(count, config.branch_blocks or min(3, len(tower.stages())))
    if source == "auto":
        source = "tokens" if tower.can_branch and not model.image_frozen else "readout"
    if source == "tokens":
        tower.add_branches(count, patches_see=config.patches_see, legacy_plus_one=config.legacy_plus_one, noise=config.noise)
    return source
