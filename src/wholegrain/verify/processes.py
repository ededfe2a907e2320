"""The same two steps in one process and in several: the shares must sum to the loss, the gradients and the state be the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.losses.core.contract import Loss
from wholegrain.objectives.resolve import resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.verify import pool
from wholegrain.verify.cases import BIAS, SCALE, Batch, drawn_near, make_batch, without_texts
from wholegrain.verify.subject import LossUnderTest, evaluate

SPLITS = {1: [(0, 6)], 2: [(0, 2), (2, 6)], 4: [(0, 1), (1, 2), (2, 5), (5, 6)]}
SECONDS = 40.0  # a process that waits longer waits for a collective call that the others never make


LOCAL_PARTS = ("shuffled",)  # controls against another image of the same process: their numbers depend on who holds what


@dataclass(frozen=True)
class Joined:
    """Two steps in several processes, beside the same steps in one.

    Attributes:
        split: how the problem was split.
        alone: name -> number, of one process.
        shares: the same of every process, in rank order.
    """

    split: str
    alone: dict[str, Tensor]
    shares: list[dict[str, Tensor]]


def two_steps(loss: Loss, batches: list[Batch], group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """Values, parts and gradients of two steps with carried state, and the last state."""
    initial = getattr(loss, "initial_state", None)
    state, found = None if initial is None else initial(batches[0].pairing.kinds), {}
    for step, batch in enumerate(batches):
        result = evaluate(loss, batch, scale=SCALE, bias=BIAS, state=state, group=group)
        state = result.state
        found[f"value {step}"] = result.value
        found |= {f"part {name} {step}": part for name, part in result.parts.items() if name not in LOCAL_PARTS}
        found |= {f"grad {name} {step}": grad for name, grad in result.grads.items()}
    return found | {f"state {name}": value for name, value in (state or {}).items()}


def _in_process(rank: int, group: dist.ProcessGroup | None, term: Term, batches: list[Batch]) -> dict[str, Tensor]:
    return two_steps(resolve_loss(term), batches, group)


def _portable(term: Term) -> Term:
    """With an absolute path: the processes of the pool may stand in another folder."""
    place, colon, attribute = term.loss.rpartition(":")
    absolute = str(Path(place).resolve()) if place.endswith(".py") else place
    return Term(absolute + colon + attribute, settings=term.settings, name=term.name)


def join(subject: LossUnderTest) -> list[Joined]:
    """Two steps in 1, 2 and 4 processes with unequal numbers of texts, and one step in which a process has no texts.

    Raises:
        RuntimeError: a process raised, or waited for ever.
    """
    batches = [drawn_near(make_batch(10)), make_batch(11, captions=(2, 1, 1, 2, 3, 1))]
    term, loss = _portable(subject.term), subject.new()
    alone = two_steps(loss, batches)
    found = []
    for size, bounds in SPLITS.items():
        parts = [[batch.part(*bound) for batch in batches] for bound in bounds]
        shares = pool.run(size, _in_process, [(term, part) for part in parts], SECONDS)
        found.append(Joined(f"{size} process{'es' if size > 1 else ''}", alone, shares))
    whole = make_batch(12)
    first = without_texts(whole.part(0, 1))
    kept = (whole.pairing.owner_N > 0).nonzero().squeeze(1)
    one = two_steps(loss, [Batch(whole.image, whole.text.select(kept), whole.pairing.select_texts(kept))])
    shares = pool.run(2, _in_process, [(term, [first]), (term, [whole.part(1, 6)])], SECONDS)
    found.append(Joined("2 processes, one without texts", one, shares))
    return found


def summed(joined: Joined, name: str) -> Tensor:
    """What the shares of ``name`` make together: rows one below the other for gradients of images and texts, else the sum."""
    shares = [share[name] for share in joined.shares]
    rows = name.startswith("grad") and shares[0].ndim > 0 and "learned." not in name
    return torch.cat(shares) if rows else torch.stack(shares).sum(0)
