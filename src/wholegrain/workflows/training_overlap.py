"""Which test pictures a run was trained on: the same bytes on both sides make a figure too good.

A picture's key is a hash of its file, in prepared data and in benchmarks alike, so this costs no picture. Copies that were scaled or compressed
again are not found here (``wholegrain doctor`` looks for them between splits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.data.mixture import open_data
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.files import read_json
from wholegrain.structure import StructureError, structure
from wholegrain.training.checkpoints.run_folder import read_recipe


class _Facts(TypedDict):
    data: object  # a name, or a list of them
    model: NotRequired[str]


@dataclass(frozen=True)
class TrainingPictures:
    """What a model was trained on, as far as runs tell.

    Attributes:
        keys: of the pictures.
        runs: whose data these are, the last one first.
        unknown: the model that the first of them began with; nobody knows here what it has seen.
    """

    keys: frozenset[str]
    runs: tuple[str, ...]
    unknown: str

    def count_in(self, result: TaskResult) -> int:
        """How many of a result's pictures were trained on."""
        return len(self.keys.intersection(result.items["cluster"].to_pylist()))


def training_pictures(model: str) -> TrainingPictures | None:
    """What a run was trained on, and the runs that it began with; ``None`` for what is no run, or if its data are no longer there.

    Args:
        model: as for ``load_model``: ``runs/latest``, ``runs/latest:last``, ``runs/latest/model``, …
    """
    keys: set[str] = set()
    runs: list[str] = []
    while (run := _run_of(model)) is not None and str(run) not in runs:
        try:
            facts = read_json(run / "run.json", _Facts, "give the folder of a run")
            dataset = open_data(structure(facts["data"], str if isinstance(facts["data"], str) else list[str]))
            keys.update(key.rpartition(":")[2] for key in dataset.keys(read_recipe(run).data.split))
        except (KeyError, OSError, StructureError, UserError):
            break
        runs.append(str(run))
        model = facts.get("model", "")
    return TrainingPictures(frozenset(keys), tuple(runs), model) if runs else None


def _run_of(model: str) -> Path | None:
    name, _, which = model.rpartition(":")
    folder = Path(name if which == "last" else model)
    found = [run.resolve() for run in (folder, folder.parent) if (run / "run.json").is_file()]
    return found[0] if model and found else None


def describe_overlap(results: Sequence[TaskResult], trained: TrainingPictures | None) -> tuple[str, dict[str, int]]:
    """A sentence about all results, and task -> pictures of it that were trained on."""
    if trained is None:
        return "Whether the model was trained on pictures of this test is not known.", {}
    counts = {result.task: trained.count_in(result) for result in results}
    of = {result.task: len(set(result.items["cluster"].to_pylist())) for result in results}
    seen = [f"{count:,} of the {of[task]:,} pictures of {task}" for task, count in counts.items() if count]
    said = f"Trained on {', '.join(seen)}" if seen else "Trained on no picture of this test"
    rest = f"; what {trained.unknown} had seen before is not known" if trained.unknown else ""
    return (
        f"{said} (the same bytes; {len(trained.keys):,} pictures of {', '.join(Path(run).name for run in trained.runs)}{rest}).",
        counts,
    )
