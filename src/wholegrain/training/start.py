"""What a training begins with: the recipe with its overrides, the data, and the model fitted to the recipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from wholegrain.data.dataset import Dataset
from wholegrain.data.mixture import open_data
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.io import load_model, needs_tokenizer
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints.run_folder import read_recipe, read_run
from wholegrain.training.run import adapt_model
from wholegrain.training.step import seed_everything

FROM_SCRATCH = {"lr": "1e-3", "weight_decay": "0.2", "warmup_steps": "200", "epochs": "20"}
"""Optimiser values in place of the recipe's fine-tuning ones where nothing that is trained has been trained before."""


def load_inputs(
    recipe: str, data: str | Path | Sequence[str], model: str, overrides: Sequence[str] = ()
) -> tuple[Recipe, Dataset, Model]:
    """The recipe, the data and the starting model that a command named.

    Args:
        recipe: a packaged recipe's name, or a TOML file.
        data: a prepared data set, or several (:func:`~wholegrain.data.mixture.open_data`).
        model: see :func:`starting_model`.
        overrides: dotted, as in ``--optimiser.lr=1e-5``.

    Where nothing that is trained has been trained before, a packaged recipe's optimiser values give way to :data:`FROM_SCRATCH`.
    """
    chosen, dataset = load_recipe(recipe, overrides), open_data(data)
    seed_everything(chosen.seed)
    start = starting_model(model, dataset, chosen.data.split)
    adapt_model(start, chosen)  # here, as new parts follow the model in one random stream; training leaves what fits as it is
    fresh = needs_tokenizer(model) or (start.image_frozen and start.text_frozen)
    if fresh and not recipe.endswith(".toml"):  # a file of one's own means what it says
        chosen = load_recipe(recipe, [*(f"--optimiser.{key}={value}" for key, value in FROM_SCRATCH.items()), *overrides])
        values = ", ".join(f"{key} {value}" for key, value in FROM_SCRATCH.items())
        _say_once(f"What is trained has not been trained before: optimiser values for that, unless given ({values}).")
    return chosen, dataset, start


def load_run_inputs(run: Path) -> tuple[Recipe, Dataset, Model]:
    """The recipe, the data and the model with which a run goes on.

    Raises:
        UserError: there is no run in this folder, or it does not say which data it used.
    """
    data = read_run(run).get("data")
    sources = [source for source in (data if isinstance(data, list) else [data]) if isinstance(source, str)]
    if not sources or (isinstance(data, list) and len(sources) < len(data)):
        raise UserError(
            f"{run / 'run.json'} does not say which data the run used; resume it from Python with training.trainer.train."
        )
    return read_recipe(run), open_data(sources), load_model(run)


@cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def starting_model(spec: str, dataset: Dataset, split: str) -> Model:
    """The model to start from, as ``load_model`` reads it; ``small`` gets a tokeniser trained on the split's captions and negatives."""
    if not needs_tokenizer(spec):
        return load_model(spec)

    def texts():
        for record in dataset.records(split):
            for caption in record.captions:
                yield caption.text
                yield from (row.text for row in dataset.negatives.get((record.key, caption.id), ()))

    return load_model(spec, tokenizer=train_tokenizer(texts()))
