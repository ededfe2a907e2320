"""Heads: everything that is learned between a tower's own width V and the shared width D.

* :mod:`wholegrain.towers.heads.base`: CLIP's two projections (Radford et al. 2021), applied to pooled vectors, patches and tokens alike.
* :mod:`wholegrain.towers.heads.sparc`: SPARC's adapters (Bica et al., ICML 2024, section 3 and appendix D).
* :mod:`wholegrain.towers.heads.branches`: Holistic CLIP's branches (Wang et al., CVPR 2025) through one shared projection.
* :mod:`wholegrain.towers.heads.pair_heads`: heads of methods that score pairs jointly (FILIP, PACL, FLAIR, Llip), and MGCA's prototypes.
* :mod:`wholegrain.towers.heads.fusion`: a network that reads image and text together (ALBEF, X-VLM).
* :mod:`wholegrain.towers.heads.cosmos`: images and words that attend to each other in training (COSMOS).

Each declares beside it what may be asked of it (``Settings``). Any head can start from another's projections (:func:`convert_head`), so
that a fine-tuning recipe begins as its base model.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.towers.heads import cosmos, fusion, pair_heads
from wholegrain.towers.heads.base import HeadSettings, PlainHead, Widths
from wholegrain.towers.heads.branches import BranchHead, BranchSettings, TokenSettings
from wholegrain.towers.heads.sparc import SparcHead

if TYPE_CHECKING:
    from wholegrain.towers.model import Model

KINDS: dict[str, type[PlainHead]] = {
    head.kind: head
    for head in (PlainHead, SparcHead, BranchHead, *pair_heads.HEADS, fusion.FusionHead, cosmos.CosmosHead)
}
"""Every head by its name in recipes and saved models."""


class HeadConfig:
    """Which head a model gets, and what is asked of it.

    Args:
        kind: a name out of :data:`KINDS`.
        given: fields of that head's settings; those not given have their defaults, or in a model that has such a head already, stay.

    Raises:
        UserError: an unknown kind, a setting that the kind does not have, of another type, or out of its range.

    Example:
        >>> HeadConfig("mgca", prototypes=9).settings
        MgcaSettings(prototypes=9)
    """

    def __init__(self, kind: str = "plain", **given: Any) -> None:
        if kind not in KINDS:
            raise UserError(f"there is no head {kind!r}; {closest(kind, list(KINDS))}")
        self.kind, self.given = kind, given
        own = {f.name: f.default for f in fields(KINDS[kind].Settings)}
        for name, value in given.items():
            if name not in own:
                takers = [other for other, head in KINDS.items() if name in {f.name for f in fields(head.Settings)}]
                hint = f"it belongs to {', '.join(takers)}" if takers else closest(name, list(own)) if own else "it has none"
                raise UserError(f'the head "{kind}" has no setting "{name}": {hint.rstrip(".")}')
            number = isinstance(own[name], float) and isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not type(own[name]) and not number:
                raise UserError(f"head_settings.{name} is {value!r}; give a value such as {own[name]!r}")
        self.settings = KINDS[kind].Settings(**given)


def build_head(config: dict[str, Any]) -> PlainHead:
    """The head that ``config()`` described, with fresh weights."""
    settings = dict(config)
    kind = settings.pop("kind")
    return KINDS[kind](Widths(**settings.pop("widths")), **settings)


def convert_head(model: Model, config: HeadConfig | str) -> Model:
    """Gives a model another head that starts from its projections; changes the model in place and returns it.

    Most heads keep the towers. ``branches`` also puts H class tokens into the image tower, or read-outs into the head, and
    ``llip`` K mixture tokens likewise. See the classes for when the start is exact.

    A model that has such a head already keeps it, and what it has learned, unless other settings are *given*: then it gets what was
    asked for, and every layer whose weights fit is taken over. Settings that are not given stay as they are.

    Raises:
        UserError: an unknown kind or setting, or a model with branches or mixture tokens that should lose or change them.
    """
    config = HeadConfig(config) if isinstance(config, str) else config
    old, device = model.head, next(model.parameters()).device
    if config.kind == old.kind:
        has = old.settings(model)
        wanted = replace(has, **config.given).resolved(old.widths)
        changed = [f.name for f in fields(wanted) if f.name in config.given and not _same(has, wanted, f.name)]
        if changed and isinstance(has, TokenSettings):
            name = changed[0]
            raise UserError(
                f"the model's {old.kind} head was made with {name} = {getattr(has, name)!r} and cannot get {getattr(wanted, name)!r}; "
                f"leave the setting out, or start from a model without that head"
            )
        if changed:
            model.head = old.asked(model, replace(old.widths), wanted).to(device)
            _take_over(model.head, old)
        return model
    if isinstance(has := old.settings(model), TokenSettings):
        count = f"{has.branches} branches" if isinstance(has, BranchSettings) else "mixture tokens"
        raise UserError(f"the model has {count} and cannot get another head; start from a model without them")
    model.head = KINDS[config.kind].asked(model, replace(old.widths), config.settings).to(device)
    model.head.start_from(old)
    return model


def _same(has: HeadSettings, wanted: HeadSettings, name: str) -> bool:
    """Whether a head has what is asked for; what ``auto`` and 0 mean was settled when it was made, and noise is of the start."""
    value = getattr(wanted, name)
    return value == getattr(has, name) or value == "auto" or name == "noise" or (name == "branch_blocks" and value == 0)


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Loads every layer of the old head that is in the new one with weights of the same shapes."""
    have, wanted = old.state_dict(), new.state_dict()
    apart = {name.rpartition(".")[0] for name, value in wanted.items() if name not in have or have[name].shape != value.shape}
    new.load_state_dict({name: have[name] for name in wanted if name.rpartition(".")[0] not in apart}, strict=False)
