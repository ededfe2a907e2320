"""The adapters of a run: of a checkpoint where one gives the model, else recovered from what they added to the model that the run began with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.towers.export.adapters import Adapters, Factors, adapted_names, fit, recovered
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.towers.tensor_files import uncompiled
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.run_folder import START, read_recipe


def check_adapted(run: Path | None, spec: str) -> Path:
    """The run, if it has adapters.

    Args:
        run: the folder that ``spec`` comes from, if it is a run's.
        spec: the model, as it was asked for.

    Raises:
        UserError: no run, one without ``model.lora``, or one whose starting model is gone.
    """
    if run is None:
        raise UserError(f"{spec} is no run, and --to peft takes the adapters of one; give a run that was trained with model.lora, such as runs/latest.")
    if not read_recipe(run).model.lora.rank:
        raise UserError(f"{run} was trained without model.lora, so it has no adapters; export --to transformers.")
    if not (run / START).is_dir():
        raise UserError(f"{run / START} is gone, and adapters are added to the model that lay there; export --to transformers.")
    return run


def adapters_of(run: Path, model: Model) -> tuple[Adapters, str]:
    """What training added to a model of a run, and where it was found, as a phrase.

    Args:
        run: see :func:`check_adapted`.
        model: its best one, or its last.

    Raises:
        UserError: something was added that adapters of the recipe's rank cannot be.
    """
    recipe = read_recipe(run)
    lora, start = recipe.model.lora, load_model(run / START)
    names = adapted_names(start, lora.towers, lora.parts)
    before, after = start.state_dict(), model.state_dict()
    bases, trained = ({name: state[name].float() for name in names} for state in (before, after))
    ours = "teacher" if recipe.teacher.kind != "none" and recipe.teacher.keep == "teacher" else "model"
    for step, factors in _kept(run, ours, names):
        if fit(factors, lora.alpha, bases, trained):
            return Adapters(lora.rank, lora.alpha, bases, factors), f"as trained, from checkpoint {step}"
    found = recovered(lora.rank, lora.alpha, bases, trained)
    return Adapters(lora.rank, lora.alpha, bases, found), "recovered from what they added, since no checkpoint has those of this model"


def _kept(run: Path, ours: str, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Factors]]]:
    """Name and factors of the run's checkpoints, the newest first; broken ones and those of newer versions are passed over."""
    for folder in checkpoint.folders(run / "checkpoints"):
        try:
            tensors = uncompiled(checkpoint.load(folder).tensors)
        except (*checkpoint.BROKEN, UserError):
            continue
        stems = {name: f"{ours}/{name.rpartition('.')[0]}.parametrizations.{name.rpartition('.')[2]}.0" for name in names}
        if all(f"{stem}.down_RI" in tensors and f"{stem}.up_OR" in tensors for stem in stems.values()):
            yield folder.name, {name: (tensors[f"{stem}.down_RI"].float(), tensors[f"{stem}.up_OR"].float()) for name, stem in stems.items()}
