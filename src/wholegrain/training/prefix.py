"""The steps that a run has in common with a shorter one, taken once.

With the schedule ``wsd`` two runs of the same recipe, data, model and seed go through the same weights until the shorter one's rate begins to fall
(``training/schedule.py``): the order of the data, what is drawn, and dropout are functions of seed and step alone. So each such run keeps the
checkpoint of that step in ``stable/``, and a longer one may begin with it.

What would make the first steps differ is looked for: another recipe, other data or another model, a warm-up that the shorter run had to
cut, and frozen towers that only one of them encodes beforehand (in other batches, so with other rounding).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wholegrain.towers.identity import model_digest
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.checkpoints.identity import RunIdentity
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.run import Run, loader_for, precomputes, total_steps
from wholegrain.training.schedule import decay_start, warmup_steps


def find_prefix(run: Run, after: Path, context: DistributedContext) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The checkpoint of a shorter run that this one begins with, or ``None`` if it takes all steps itself; and sentences that say so.

    Args:
        run: the longer one.
        after: the shorter one's folder.

    Raises:
        UserError: there is no run in that folder.
    """
    folder = RunFolder(after, resume=True)
    why = _why_not(run, folder)
    saved, broken = (None, ()) if why else checkpoint.load_newest(folder.stable, loader_for(run, context))
    if saved is None:
        return None, (*broken, f"The first steps are not taken over from {after}: {why or 'it keeps no checkpoint of them'}.")
    return saved, (*broken, f"It goes on from step {saved.step} of {after}.")


def _why_not(run: Run, after: RunFolder) -> str:
    """What keeps the two runs from having their first steps in common; empty if nothing does."""
    began, own = after.identity, run.recipe.optimiser
    its = began.recipe.optimiser
    if own.schedule != "wsd":
        return f"the schedule is {own.schedule}, not wsd"
    same = replace(own, steps=its.steps, epochs=its.epochs, decay_share=its.decay_share)
    wanted = RunIdentity(replace(run.recipe, optimiser=same), run.dataset.content_hash, model_digest(run.model))
    different = began.differences(wanted)
    if different:
        return f"it was made with {different}"
    total = total_steps(its, run.plan)
    if decay_start(total, its) > decay_start(run.total, own):
        return f"its rate began to fall at step {decay_start(total, its)}, this one's does at {decay_start(run.total, own)}"
    if warmup_steps(total, its) != warmup_steps(run.total, own):
        return f"its {total} steps cut the warm-up to {warmup_steps(total, its)}"
    if precomputes(run, total) != precomputes(run, run.total):
        return "frozen towers are encoded beforehand in one of the two alone"
    return ""
