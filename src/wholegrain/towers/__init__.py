"""Two-tower models, their heads, and how they are loaded and saved.

Names are imported when they are asked for: the loader brings open_clip and timm with it, and not every part needs those.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wholegrain.towers.convert import convert_head
    from wholegrain.towers.heads.registry import HeadConfig
    from wholegrain.towers.io import load_model, needs_tokenizer, save_model
    from wholegrain.towers.model import Model

__all__ = ["HeadConfig", "Model", "convert_head", "load_model", "needs_tokenizer", "save_model"]

_HOME = {"HeadConfig": "heads.registry", "convert_head": "convert", "Model": "model"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'io')}"), name)
