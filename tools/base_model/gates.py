"""The gates of the scenes: is this world one in which the comparison means something?

Set with plain CLIP and the pictures alone, on development scenes, before any method is compared: a bag of words must tell a random batch apart and be
blind to order; a small network that is taught the nouns must read them, and a linear probe of the base's features what twins differ in; the
base model must retrieve, and must be no better than lots on some kinds. Those are the *weak* kinds, which a method may repair; the others are
what plain CLIP solves by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from base_model.legibility import Legibility, legibility
from base_model.oracle import bag_retrieval, bag_twins
from base_model.probes import Reading, read_attributes
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.twins import TWIN_KINDS
from wholegrain.data.scenes.world import World
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.towers.model import Model

WEAK = 1 / 6  # a group score no better than that of lots
BATCH = 128
READ = 0.95  # a silhouette that is read less often is to be exchanged for a clearer one
TWIN_ATTRIBUTES = {
    "replace_colour": "colour", "swap_attribute": "colour", "replace_fill": "fill", "swap_fill": "fill", "replace_size": "size",
}  # fmt: skip
"""Kind of twins -> the attribute in which they differ; the other kinds differ in nouns or places."""


@dataclass(frozen=True)
class Gate:
    """One condition: what was measured, what is asked, and whether it holds."""

    name: str
    value: str
    asked: str
    passed: bool


def weak_kinds(composition: TaskResult) -> tuple[str, ...]:
    """The kinds of twins whose group score (all four choices right) is no better than that of lots."""
    kinds = [f.name.split("/")[0] for f in composition.figures if f.name.endswith("/group_score")]
    return tuple(k for k in kinds if composition.figure(f"{k}/group_score").value <= WEAK)


def run_gates(model: Model, dataset: Dataset, world: World) -> tuple[list[Gate], tuple[str, ...]]:
    """All gates on the development split ``val``, and the weak kinds.

    Args:
        model: the base model.
        dataset: scenes of this world, with ``val`` pictures and twins.
    """
    gates = [_oracle_gate(world)]
    for kind in ("swap_object", "swap_attribute"):
        blind = bag_twins(kind, world)
        gates.append(Gate(f"bag of words on {kind}", f"{blind:.1%}", "50%", blind == 0.5))
    gates += legibility_gates(legibility(world))
    gates += attribute_gates(read_attributes(model, world))
    found = evaluate(
        model,
        dataset,
        EvaluationOptions(progress=False),
        split="val",
        tasks=("retrieval", "composition"),
        settings={"retrieval": {"roles": ("overview",)}},
    )
    retrieval, composition = found
    recall = retrieval.figure("image_retrieval_recall@1").value
    size = len(dataset.keys("val"))
    gates.append(Gate(f"base model: R@1 of {size:,} pictures by overview", f"{recall:.1%}", "at least 60%", recall >= 0.6))
    weak = weak_kinds(composition)
    gates.append(
        Gate("kinds on which the base model is no better than lots", ", ".join(weak) or "none", "at least three", len(weak) >= 3)
    )
    return gates, weak


def legibility_gates(read: Legibility) -> list[Gate]:
    """The silhouettes are to be read by a reader that is taught them: on the average, and every one of them."""
    noun, share = read.worst
    return [
        Gate(
            "objects named by a supervised reader of the pictures", f"{read.mean:.1%}", f"at least {READ:.0%}", read.mean >= READ
        ),
        Gate("the noun that it reads worst", f"{noun}: {share:.1%}", f"at least {READ:.0%}", share >= READ),
    ]


def attribute_gates(read: Mapping[str, Reading]) -> list[Gate]:
    """What twins differ in is to be read from the base's features by a linear probe; what no twin is built on is only reported."""
    gates = []
    for name, reading in read.items():
        kinds = [kind for kind, attribute in TWIN_ATTRIBUTES.items() if attribute == name and kind in TWIN_KINDS]
        value = f"{reading.share:.1%} (always the commonest: {reading.commonest:.1%})"
        asked = f"at least {READ:.0%}, for {', '.join(kinds)}" if kinds else "nothing: no twins differ in it"
        gates.append(Gate(f"{name} read by a linear probe", value, asked, not kinds or reading.share >= READ))
    return gates


def _oracle_gate(world: World) -> Gate:
    share = bag_retrieval(world, BATCH)
    return Gate(f"bag of words: R@1 in a batch of {BATCH}", f"{share:.1%}", "at least 98%", share >= 0.98)
