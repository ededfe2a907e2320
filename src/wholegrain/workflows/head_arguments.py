"""The words and options that all tasks of :mod:`wholegrain.downstream` share.

Annotations are types here, not their names: a task's own options are a subclass in another module, where the names would be looked up.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from wholegrain.errors import UserError


@dataclass(frozen=True, kw_only=True)
class HeadArguments:
    """The words and options that all tasks on top of an image tower share.

    Attributes:
        model: a name ("base", "ViT-B-16:openai"), a folder or a run.
        data: a prepared data set.
        out: a folder for the trained head, results.json, the items behind the figures and a page; by default below RUN/results or
            results/MODEL, where compare finds them. The same command goes on there with what is not finished.
        recipe: a TOML file in the place of the packaged recipe; --training.lr 1e-4 and the like override single keys.
        split: to measure on.
        train_split: to train on.
        steps: optimiser steps; the recipe's by default.
        batch: examples per step; the recipe's by default.
        lr: peak learning rate of the head; the recipe's by default.
        tune: what is trained of the image tower beside the head: none, all or last:N; the recipe's by default (none).
        seed: of the training (in the place of the recipe's) and of resamples.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
        cache: a folder that keeps features of frozen towers from run to run.
    """

    model: Positional[str]
    data: Positional[Path]
    out: Path | None = None
    recipe: Path | None = None
    split: str = "test"
    train_split: str = "train"
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    tune: Annotated[str | None, tyro.conf.arg(metavar="HOW")] = None
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    overrides: tuple[str, ...] = ()

    @property
    def all_overrides(self) -> list[str]:
        """Of the recipe: ``overrides``, and the options that are short for some.

        Raises:
            UserError: the seed is given by its key, where the folder and resamples would not see it.
        """
        if any(override.partition("=")[0].split()[0] == "--training.seed" for override in self.overrides):
            raise UserError("The seed is given as --training.seed; give it as --seed, which names the folder, too.")
        short = {"steps": self.steps, "batch": self.batch, "lr": self.lr, "tune": self.tune, "seed": self.seed}
        return [*self.overrides, *(f"--training.{name}={value}" for name, value in short.items() if value is not None)]

    def folder(self, task: str) -> Path:
        """``out``, or where results of this task lie by default."""
        from wholegrain.evaluation.result_folders import results_folder

        seed = f"-seed{self.seed}" if self.seed else ""
        return self.out or results_folder(self.model, f"{task}-{self.data.resolve().name}{seed}")
