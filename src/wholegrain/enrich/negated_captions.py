"""True captions that also say what is not there: :class:`NegatedCaptionsStage`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wholegrain.data.record import Caption, GeneratedCaption, Record, generated_id
from wholegrain.enrich.balance import drawn
from wholegrain.enrich.edits import KINDS
from wholegrain.enrich.morphology import article
from wholegrain.enrich.negation import NEGATED, NEGATIONS
from wholegrain.enrich.negatives import VERSION, NegativesStage
from wholegrain.enrich.source import Source, stream
from wholegrain.enrich.stage import Failure, Rows, Stage
from wholegrain.enrich.tagging import BuiltinTagger, Tagger, Word
from wholegrain.enrich.text import Edited, edited
from wholegrain.errors import UserError

_FAMILIES = ("object", "attribute", "relation", "action", "count")


@dataclass
class NegatedCaptionsStage(Stage):
    """For every caption wordings that also say what is not there: ``A dog runs`` -> ``A dog, not a cat, runs``.

    They are rows of the sidecar of captions, of role ``negated``; a :class:`NegativesStage` that runs after it with the kinds ``negation``
    makes their false sides. What is not there is drawn like a false text of its kind.

    Args:
        kinds: of :data:`~wholegrain.enrich.negation.NEGATIONS`; ``negation`` stands for all.
        seed, tagger, balance: as of :class:`NegativesStage`.
    """

    kinds: Sequence[str] = NEGATIONS
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)
    balance: Sequence[str] = ("words",)
    plain: NegativesStage = field(init=False)

    name = "negated"
    table = "captions"

    def __post_init__(self) -> None:
        self.kinds = tuple(dict.fromkeys(k for kind in self.kinds for k in (NEGATIONS if kind == "negation" else (kind,))))
        unknown = [kind for kind in self.kinds if kind not in NEGATIONS]
        if unknown:
            raise UserError(f"There is no kind {unknown[0]!r} of negated captions; choose among {', '.join(NEGATIONS)}.")
        wanted = [kind.removeprefix("negation_") for kind in self.kinds]
        plain = [kind for kind in KINDS if kind.split("_")[0] in wanted]
        self.plain = NegativesStage(plain, 1, self.seed, self.tagger, self.balance)

    @property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """All that the rows depend on besides the data."""
        return {**self.plain.identity, "method": "negated captions"}

    def fit(self, dataset: Any, keys: Sequence[str]) -> None:
        """As :meth:`NegativesStage.fit`."""
        self.plain.fit(dataset, keys)

    def rows(self, records: Sequence[Record], pixels: Sequence[Any]) -> list[Rows | Failure]:
        """The negated captions of each record."""
        return [[self._row(record, caption, made) for caption, made in self.made(record)] for record in records]

    def made(self, record: Record) -> Iterator[tuple[Caption, Edited]]:
        """Each plain caption with its negated wordings, at most one of each kind."""
        for caption, source, made in self.plain.possible(record):
            if caption.role == NEGATED:
                continue
            for family in _FAMILIES:
                kind = f"negation_{family}"
                found = [
                    (one, said) for name, ones in made.items() if name.split("_")[0] == family and kind in self.kinds
                    for one in ones if (said := _negated(kind, source, one)) is not None
                ]  # fmt: skip
                weights = self.plain.collection.weights.get(found[0][0].kind, {}) if found else {}
                draw = stream(self.seed, record.key, caption.id, kind)
                for n in drawn([self.plain.features(one) for one, _ in found], weights, 1, draw, none=0.0):
                    yield caption, found[n][1]

    def _row(self, record: Record, caption: Caption, made: Edited) -> GeneratedCaption:
        model = "word rules"
        source = f"{model} {VERSION}: {made.kind} of {caption.id}; {self.tagger.identity}; seed {self.seed}"
        name = generated_id(made.text, NEGATED, source)
        return GeneratedCaption(record.key, name, NEGATED, made.text, source, model, made.kind, str(VERSION), self.seed)


def _negated(kind: str, source: Source, one: Edited) -> Edited | None:
    """The caption with what ``one`` puts in as what is not there; ``None`` where that makes no good sentence."""
    if not one.edits or "not" in source.low or (len(one.edits) > 1 and kind != "negation_count"):
        return None
    start, end = min(edit[0] for edit in one.edits), max(edit[1] for edit in one.edits)
    places = [n for n, word in enumerate(source.words) if start <= word.start and word.end <= end]
    if not places:
        return None
    after = source.words[places[-1] + 1] if places[-1] + 1 < len(source.words) else None
    if after is not None and after.low == ",":
        return None
    new = _missing(kind, source, one, places, after)
    if new is None:
        return None
    comma = "," if after is not None and after.pos != "PUNCT" else ""
    last = source.words[places[-1]].end
    return edited(kind, source.tagged.text, [(last, last, f", not {new}{comma}")])


def _missing(kind: str, source: Source, one: Edited, places: Sequence[int], after: Word | None) -> str | None:
    """What stands behind "not"."""
    new, last = one.edits[0][3].lower(), places[-1]
    if kind == "negation_object":
        phrase = next((phrase for phrase in source.tagged.phrases if phrase.head == last), None)
        if phrase is None or (after is not None and after.pos in ("DET", "POSS", "NUM", "PRON", "NOUN", "ADJ")):
            return None
        new = new.split()[-1]  # an article that followed the noun stands in the edit, too
        first = source.words[phrase.start]
        before = first.low if first.pos in ("DET", "POSS", "NUM") and first.low not in ("another", "each", "other") else ""
        return f"{article(new) if before in ('a', 'an') else before} {new}".strip()
    if kind == "negation_attribute":
        joined = after is None or after.low in ("and", "or") or (last and source.low[last - 1] in ("and", "very"))
        return None if joined else new.split()[-1]
    if kind == "negation_count":
        if len(one.edits) == 1:
            return new if len(places) == 1 and source.words[places[0]].pos == "NUM" and not new.startswith("a group") else None
        whole = next((p for p in source.tagged.phrases if (p.start, p.head) == (places[0], last)), None)
        if whole is None or len(one.edits) != 2:  # a third edit is a verb that would have to agree with both
            return None
        words = source.low[places[0] : last + 1]
        return " ".join([new, *words[1:-1], one.edits[1][3].lower()])
    return new
