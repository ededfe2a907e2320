"""What a caption says wrongly of a scene, and what it leaves out, counted against the scene's own record.

The truth is the record's: its ``detail`` caption names every thing with number and attributes, and the ground and its texture; its ``style`` caption
the style; the boxes of its regions say where things are that are alone of their noun. Definitions, for one caption of one picture:

* *hallucinated object*: a thing that is named and whose noun no thing of the picture has. Its attributes, number and relations are not judged.
* *wrong attribute*: a colour, fill or size that is said of a thing which is there, and that no thing of that noun has.
* *wrong number*: "two" or "three" of a thing which is there, where there are not exactly so many ("a cup" is true of two).
* *wrong relation*: "A left of B", both there and alone of their nouns, and the centre of A's box does not lie left of the centre of B's (likewise
  right, above, below). Relations of what has no box are not judged.
* *wrong background*: a ground, texture or style that the picture does not have.
* *left out*: a noun of the picture that no part of the caption names.

Each is a share of what was said and could be judged (of the picture's nouns, for what is left out); a caption that says nothing of a kind does not
count in that figure. *wholly true*: nothing wrong of any kind, and at least one thing named. No benchmark measures exactly this: nearest is CHAIR
(Rohrbach et al., EMNLP 2018), whose hallucinated objects are those here, judged there by synonym lists and people's marks of 80 kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wholegrain.data.record import Record
from wholegrain.downstream.captioning.claims import ClaimReader, Claims, SaidRelation, Span

Kind = Literal["hallucinated_objects", "wrong_attributes", "wrong_numbers", "wrong_relations", "wrong_background"]
KINDS: tuple[Kind, ...] = ("hallucinated_objects", "wrong_attributes", "wrong_numbers", "wrong_relations", "wrong_background")
FIGURES = (*KINDS, "left_out", "wholly_true")


@dataclass(frozen=True)
class SceneTruth:
    """What is true of a picture.

    Attributes:
        counts: noun -> how many.
        looks: noun -> the attribute words that are true of things of that noun.
        background: ``ground``, ``texture``, ``style`` -> word; those that the record states.
        centres: noun -> x and y of its box's centre, of things alone of their noun.
    """

    counts: dict[str, int]
    looks: dict[str, frozenset[str]]
    background: dict[str, str]
    centres: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Judgement:
    """A caption against a picture.

    Attributes:
        judged: kind -> how many claims of it could be judged.
        wrong: kind -> where in the caption the wrong ones stand.
        left_out: nouns of the picture that are not named.
        nouns: of the picture.
        named: things that the caption names.
    """

    judged: dict[Kind, int]
    wrong: dict[Kind, tuple[Span, ...]]
    left_out: tuple[str, ...]
    nouns: int
    named: int

    def figures(self) -> dict[str, float]:
        """Name -> share; NaN where nothing of the kind was said."""
        shares = {kind: len(self.wrong[kind]) / self.judged[kind] if self.judged[kind] else np.nan for kind in KINDS}
        true = self.named > 0 and not any(self.wrong.values())
        return {**shares, "left_out": len(self.left_out) / self.nouns, "wholly_true": float(true)}


def truth_of(record: Record, reader: ClaimReader) -> SceneTruth | None:
    """The truth of a scene's record; ``None`` if it has no ``detail`` caption (the pictures of twins have none)."""
    detail = next((caption.text for caption in record.captions if caption.role == "detail"), None)
    if detail is None:
        return None
    claims = reader(detail)
    styles = [caption.text for caption in record.captions if caption.role == "style"]
    background = dict(pair for text in (detail, *styles) for pair in ((kind, said.value) for kind, said in reader(text).background))
    counts = {thing.noun.value: thing.count for thing in claims.things}
    looks = {thing.noun.value: frozenset(said.value for _, said in thing.attributes) for thing in claims.things}
    alone = [noun for noun, count in counts.items() if count == 1]
    centres = {}
    for region in record.regions:
        named = reader(region.phrase).things
        if named and named[0].noun.value in alone:
            x0, y0, x1, y1 = region.box
            centres[named[0].noun.value] = ((x0 + x1) / 2, (y0 + y1) / 2)
    return SceneTruth(counts, looks, background, centres)


def judge(claims: Claims, truth: SceneTruth) -> Judgement:
    """What of a caption is wrong, and what it leaves out; see the head of this file."""
    judged: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    wrong: dict[Kind, list[Span]] = {kind: [] for kind in KINDS}

    def rule(kind: Kind, span: Span, true: bool) -> None:
        judged[kind] += 1
        if not true:
            wrong[kind].append(span)

    for thing in claims.things:
        noun = thing.noun.value
        rule("hallucinated_objects", thing.noun.span, noun in truth.counts)
        if noun in truth.counts:
            for _, said in thing.attributes:
                rule("wrong_attributes", said.span, said.value in truth.looks[noun])
            if thing.count_span is not None:
                rule("wrong_numbers", thing.count_span, thing.count == truth.counts[noun])
    for said in claims.relations:
        true = relation_holds(said, truth)
        if true is not None:
            rule("wrong_relations", said.relation.span, true)
    for kind, said in claims.background:
        if kind in truth.background:
            rule("wrong_background", said.span, said.value == truth.background[kind])
    named = {thing.noun.value for thing in claims.things}
    left_out = tuple(noun for noun in truth.counts if noun not in named)
    return Judgement(judged, {kind: tuple(spans) for kind, spans in wrong.items()}, left_out, len(truth.counts), len(claims.things))


def relation_holds(said: SaidRelation, truth: SceneTruth) -> bool | None:
    """Whether a relation is true; ``None`` where it cannot be judged."""
    first, second = (truth.centres.get(thing.noun.value) for thing in (said.first, said.second))
    if first is None or second is None or said.first.noun.value == said.second.noun.value:
        return None
    dx, dy = first[0] - second[0], first[1] - second[1]
    return {"left": dx < 0, "right": dx > 0, "above": dy < 0, "below": dy > 0}[said.relation.value]


def judged_figures(captions: Sequence[str], truths: Sequence[SceneTruth], reader: ClaimReader) -> dict[str, np.ndarray]:
    """Figure -> float64 ``[N]``, a caption against its picture each."""
    rows = [judge(reader(text), truth).figures() for text, truth in zip(captions, truths, strict=True)]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in FIGURES}
