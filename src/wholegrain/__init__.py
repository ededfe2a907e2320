"""Wholegrain: train, test and explain CLIP models that see the whole and the grain.

Example::

    import wholegrain as wg

    model = wg.load("ViT-B-32:openai")
    model.rank("a dog on grass", "photos")

Names are imported when they are asked for, so ``import wholegrain`` brings neither torch nor anything else that is slow. docs/python.md says
what there is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wholegrain import losses
    from wholegrain.data.dataset import Dataset
    from wholegrain.data.listing import pictures_in
    from wholegrain.errors import UserError
    from wholegrain.report.explanation import Explanation
    from wholegrain.towers.io import load_model, save_model
    from wholegrain.towers.model import Model
    from wholegrain.workflows.embedder import Embedder, load
    from wholegrain.workflows.functions import audit, compete, evaluate, prepare, read_outs, recipes, train
    from wholegrain.workflows.search import search

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Embedder",
    "Explanation",
    "Model",
    "UserError",
    "__version__",
    "audit",
    "compete",
    "evaluate",
    "load",
    "load_model",
    "losses",
    "pictures_in",
    "prepare",
    "read_outs",
    "recipes",
    "save_model",
    "search",
    "train",
]

_HOME = {
    "Dataset": "data.dataset",
    "Embedder": "workflows.embedder",
    "Explanation": "report.explanation",
    "Model": "towers.model",
    "UserError": "errors",
    "load": "workflows.embedder",
    "load_model": "towers.io",
    "pictures_in": "data.listing",
    "save_model": "towers.io",
    "search": "workflows.search",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "losses":
        return import_module(f"{__name__}.losses")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'workflows.functions')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
