"""Another head for a model, which starts from the projections of the one that it has."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

from torch import nn

from wholegrain.errors import UserError
from wholegrain.towers.heads.base import HeadSettings
from wholegrain.towers.heads.branches import BranchSettings, TokenSettings
from wholegrain.towers.heads.registry import KINDS, HeadConfig
from wholegrain.towers.model import Model


def convert_head(model: Model, config: HeadConfig | str) -> Model:
    """Gives a model another head that starts from its projections; changes the model in place and returns it.

    Most heads keep the towers. ``branches`` also puts H class tokens into the image tower, or learned poolings of the patches into the
    head, and ``llip`` K mixture tokens likewise. Whether the features are those of before, each head's class says.

    A model that has such a head already keeps it, and what it has learned, unless other settings are *chosen*: then it gets
    those, and every layer whose weights fit is taken over. Settings that are not chosen stay as they are.

    Raises:
        UserError: an unknown kind or setting, or a model with branches or mixture tokens that should lose or change them.
    """
    config = HeadConfig(config) if isinstance(config, str) else config
    old, tower, device = model.head, model.image_tower, next(model.parameters()).device
    if config.kind == old.kind:
        has = old.settings_with(tower)
        wanted = replace(has, **config.chosen).resolved(old.widths)
        changed = [f.name for f in fields(wanted) if f.name in config.chosen and not _same(has, wanted, f.name)]
        if changed and isinstance(has, TokenSettings):
            name = changed[0]
            raise UserError(
                f"the model's {old.kind} head was made with {name} = {getattr(has, name)!r} and cannot get {getattr(wanted, name)!r}; "
                f"leave the setting out, or start from a model without that head"
            )
        if changed:
            model.head = old.from_settings(old.widths, wanted, tower).to(device)
            _take_weights(model.head, old, {old.begins[name] for name in changed if name in old.begins})
        return model
    if isinstance(has := old.settings_with(tower), TokenSettings):
        count = f"{has.branches} branches" if isinstance(has, BranchSettings) else "mixture tokens"
        raise UserError(f"the model has {count} and cannot get another head; start from a model without them")
    model.head = KINDS[config.kind].from_settings(old.widths, config.settings, tower).to(device)
    model.head.start_from(old)
    return model


def _same(has: HeadSettings, wanted: HeadSettings, name: str) -> bool:
    """Whether a head has the setting that is wanted. ``auto`` and 0 blocks ask for nothing in particular, and noise only matters at the start."""
    value = getattr(wanted, name)
    return value == getattr(has, name) or value == "auto" or name == "noise" or (name == "branch_blocks" and value == 0)


def _take_weights(new: nn.Module, old: nn.Module, anew: Collection[str] = ()) -> None:
    """Loads every layer of the old head that is in the new one with weights of the same shapes; but not what begins ``anew``."""
    have, wanted = old.state_dict(), {name: value for name, value in new.state_dict().items() if name not in anew}
    apart = {name.rpartition(".")[0] for name, value in wanted.items() if name not in have or have[name].shape != value.shape}
    new.load_state_dict({name: have[name] for name in wanted if name.rpartition(".")[0] not in apart}, strict=False)
