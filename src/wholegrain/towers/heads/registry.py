"""Heads: everything that is learned between a tower's own width V and the shared width D.

* :mod:`wholegrain.towers.heads.base`: CLIP's two projections (Radford et al. 2021), applied to pooled vectors, patches and tokens alike.
* :mod:`wholegrain.towers.heads.sparc`: SPARC's adapters (Bica et al., ICML 2024, section 3 and appendix D).
* :mod:`wholegrain.towers.heads.branches`: Holistic CLIP's branches (Wang et al., CVPR 2025) through one shared projection.
* :mod:`~wholegrain.towers.heads.filip`, :mod:`~wholegrain.towers.heads.pacl`, :mod:`~wholegrain.towers.heads.flair`,
  :mod:`~wholegrain.towers.heads.llip`: heads of methods that score pairs jointly.
* :mod:`wholegrain.towers.heads.mgca`: MGCA's prototypes.
* :mod:`wholegrain.towers.heads.fusion`: a network that reads image and text together (ALBEF, X-VLM).
* :mod:`wholegrain.towers.heads.grain`: noun phrases against patches beside the whole, with a weight that is learned.
* :mod:`wholegrain.towers.heads.cosmos`: images and words that attend to each other in training (COSMOS).

Each is a file with its settings (``Settings``, a dataclass) and a row of :data:`KINDS`. Any head can start from another's projections
(:func:`wholegrain.towers.convert.convert_head`), so that a fine-tuning recipe begins as its base model.
"""

from __future__ import annotations

from dataclasses import fields

from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.towers.base import Config
from wholegrain.towers.heads.base import Head, PlainHead, Widths
from wholegrain.towers.heads.branches import BranchHead
from wholegrain.towers.heads.cosmos import CosmosHead
from wholegrain.towers.heads.filip import FilipHead
from wholegrain.towers.heads.flair import FlairHead
from wholegrain.towers.heads.fusion import FusionHead
from wholegrain.towers.heads.grain import GrainHead
from wholegrain.towers.heads.llip import LlipHead
from wholegrain.towers.heads.mgca import MgcaHead
from wholegrain.towers.heads.pacl import PaclHead
from wholegrain.towers.heads.sparc import SparcHead

KINDS: dict[str, type[Head]] = {
    head.kind: head
    for head in (
        PlainHead, SparcHead, BranchHead, FilipHead, PaclHead, MgcaHead, FlairHead, LlipHead, FusionHead, CosmosHead,
        GrainHead,
    )
}  # fmt: skip
"""Every head by its name in recipes and saved models."""


class HeadConfig:
    """Which head a model gets, and its settings.

    Args:
        kind: a name out of :data:`KINDS`.
        chosen: fields of that head's settings. The others get their defaults; a head of this kind that a model has already keeps its own.

    Raises:
        UserError: an unknown kind, a setting that the kind does not have, of another type, or out of its range.

    Example:
        >>> HeadConfig("mgca", prototypes=9).settings
        MgcaSettings(prototypes=9)
    """

    def __init__(self, kind: str = "plain", **chosen: object) -> None:
        if kind not in KINDS:
            raise UserError(f"there is no head {kind!r}; {closest(kind, list(KINDS))}")
        self.kind, self.chosen = kind, chosen
        own = {f.name: f.default for f in fields(KINDS[kind].Settings)}
        for name, value in chosen.items():
            if name not in own:
                takers = [other for other, head in KINDS.items() if name in {f.name for f in fields(head.Settings)}]
                hint = f"it belongs to {', '.join(takers)}" if takers else closest(name, list(own)) if own else "it has none"
                raise UserError(f'the head "{kind}" has no setting "{name}": {hint.rstrip(".")}')
            number = isinstance(own[name], float) and isinstance(value, int) and not isinstance(value, bool)
            if type(value) is not type(own[name]) and not number:
                raise UserError(f"head_settings.{name} is {value!r}; give a value such as {own[name]!r}")
        self.settings = KINDS[kind].Settings(**chosen)


def build_head(config: Config) -> Head:
    """The head that ``config()`` described, with fresh weights."""
    saved = dict(config)
    head, widths = KINDS[saved.pop("kind")], Widths(**saved.pop("widths"))
    names = {key: name for name, key in head.saved.items()}
    return head(widths, head.Settings(**{names.get(key, key): value for key, value in saved.items()}))
