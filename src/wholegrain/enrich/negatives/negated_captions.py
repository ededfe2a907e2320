"""True captions that also say what is not there: :class:`NegatedCaptionsStage`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log1p

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, GeneratedCaption, Record, generated_id
from wholegrain.enrich.negatives.balance import drawn, features
from wholegrain.enrich.negatives.edits import KINDS
from wholegrain.enrich.negatives.edits.objects import strangers
from wholegrain.enrich.negatives.negation import NEGATED, NEGATIONS, origin_of
from wholegrain.enrich.negatives.word_rules import VERSION, NegativesStage
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.text.words.morphology import article
from wholegrain.text.words.source import Source, stream
from wholegrain.text.words.tagging import BuiltinTagger, Tagger, Word
from wholegrain.text.words.text import Edit, Edited, edited

_CLAUSES = frozenset({"one", "while", "as", "with", "who", "which"})
_FAMILIES = ("object", "attribute", "relation", "action", "count")


@dataclass
class NegatedCaptionsStage(Stage):
    """For every caption wordings that also say what is not there: ``A dog runs`` -> ``A dog, not a cat, runs``.

    They are rows of the sidecar of captions, of role ``negated``; a :class:`NegativesStage` that runs after it with the kinds ``negation``
    makes their false sides. What is not there is drawn as often as the captions use its words.

    Args:
        kinds: of :data:`~wholegrain.enrich.negatives.negation.NEGATIONS`; ``negation`` stands for all.
        seed, tagger: as of :class:`NegativesStage`.
    """

    kinds: Sequence[str] = NEGATIONS
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)
    plain: NegativesStage = field(init=False)

    name = "negated"
    table = "captions"

    def __post_init__(self) -> None:
        self.kinds = tuple(dict.fromkeys(k for kind in self.kinds for k in (NEGATIONS if kind == "negation" else (kind,))))
        unknown = [kind for kind in self.kinds if kind not in NEGATIONS]
        if unknown:
            raise UserError(f"There is no kind {unknown[0]!r} of negated captions; {closest(unknown[0], NEGATIONS)}")
        wanted = [kind.removeprefix("negation_") for kind in self.kinds]
        plain = [kind for kind in KINDS if kind.split("_")[0] in wanted]
        self.plain = NegativesStage(plain, 1, self.seed, self.tagger, ())

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {**self.plain.identity, "method": "negated captions"}

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Counts words."""
        self.plain.fit(dataset, keys)

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The negated captions of each record."""
        return [[self._row(record, caption, its) for caption, its in self.made(record)] for record in records]

    def made(self, record: Record) -> Iterator[tuple[Caption, Negated]]:
        """Each plain caption with its negated wordings, at most one of each kind."""
        weights = {word: log1p(count) for word, count in (self.plain.collection.vocabulary or {}).items()}
        for caption, source, made in self.plain.possible(record):
            if caption.role == NEGATED:
                continue
            some = False
            for family in _FAMILIES:
                draw = stream(self.seed, record.key, caption.id, f"negation_{family}")
                found = self._negated(family, source, made)
                if family == "object" and not found:
                    found = self._negated(family, source, {"object": [edited("", caption.text, c) for c in strangers(source, draw)]})
                if family == "count":  # a verb that agrees tells the false side apart: only where nothing else is to be had
                    found = [pair for pair in found if not (some and pair[1].follow)]
                    found = [pair for pair in found if not pair[1].follow] or found
                for n in drawn([features(one.edits, length=False) for one, _ in found], weights, 1, draw, none=0.0):
                    some = True
                    yield caption, found[n][1]

    def _negated(self, family: str, source: Source, made: Mapping[str, Sequence[Edited]]) -> list[tuple[Edited, Negated]]:
        kind = f"negation_{family}"
        edits = [one for name, ones in made.items() if name.split("_")[0] == family and kind in self.kinds for one in ones]
        return [(one, its) for one in edits if (its := _negated(kind, source, one)) is not None]

    def _row(self, record: Record, caption: Caption, its: Negated) -> GeneratedCaption:
        model, made = "word rules", its.edited
        source = f"{model} {VERSION}: {its.origin(caption.id)}; {self.tagger.identity}; seed {self.seed}"
        name = generated_id(made.text, NEGATED, source)
        return GeneratedCaption(record.key, name, NEGATED, made.text, source, model, made.kind, str(VERSION), self.seed)


@dataclass(frozen=True)
class Negated:
    """A caption that also says what is not there.

    Attributes:
        edited: the text; its kind is one of :data:`~wholegrain.enrich.negatives.negation.NEGATIONS`.
        there, missing: the number of words, at the end of what stands before and behind "not", that exclude each other.
        follow: words behind them that agree with what is there, and what they would be for what is missing.
    """

    edited: Edited
    there: int
    missing: int
    follow: tuple[tuple[str, str], ...] = ()

    def origin(self, caption: str) -> str:
        """What the source says of it."""
        return origin_of(self.edited.kind, caption, self.there, self.missing, self.follow)


def _negated(kind: str, source: Source, one: Edited) -> Negated | None:
    """The caption with what ``one`` puts in as what is not there; ``None`` where that makes no good sentence."""
    if not one.edits or "not" in source.low:
        return None
    main, follow = _parted(kind, one)
    if any(" " in old or " " in new for old, new in follow):
        return None
    start, end = main[0][0], main[-1][1]
    places = [n for n, word in enumerate(source.words) if start <= word.start and word.end <= end]
    places = _to_noun(kind, source, main, places)
    if not places:
        return None
    last = places[-1]
    after = source.words[last + 1] if last + 1 < len(source.words) else None
    if after is not None and after.low == "," and not set(source.low[last + 2 : last + 3]) & _CLAUSES:
        return None  # a list
    missing = _missing(kind, source, main, places, after)
    if missing is None:
        return None
    before, new = missing
    comma = "," if after is not None and after.pos != "PUNCT" else ""
    end, there = source.words[last].end, len(places)
    made = edited(kind, source.tagged.text, [(end, end, f", not {f'{before} {new}'.strip()}{comma}")])
    return Negated(made, there, len(new.split()), follow)


def _parted(kind: str, one: Edited) -> tuple[tuple[Edit, ...], tuple[tuple[str, str], ...]]:
    """The edits that change the fact, and the words behind them that follow it: verbs that agree, pronouns."""
    _, _, old, new = one.edits[0]
    length = 2 if kind == "negation_count" and len(one.edits) > 1 and " " not in old + new else 1  # a number and its noun
    return one.edits[:length], tuple((old, new) for _, _, old, new in one.edits[length:])


def _to_noun(kind: str, source: Source, main: Sequence[Edit], places: list[int]) -> list[int]:
    """The words of an edit without their article, and with the noun that they belong to ("two people", "football player")."""
    if kind in ("negation_object", "negation_attribute"):
        places = [n for n in places if n == places[-1] or source.low[n] not in ("a", "an")]
    grouped = "a group of" in (source.low_text(places), main[0][3].lower())
    if not places or not (kind == "negation_object" or (kind == "negation_count" and grouped)):
        return places
    within = places[0] + (3 if source.low_text(places[:3]) == "a group of" else 0)
    phrase = next((phrase for phrase in source.tagged.phrases if phrase.start <= within <= phrase.head), None)
    if phrase is None or (kind == "negation_count" and phrase.start != within):
        return places if kind == "negation_count" else []
    return list(range(places[0], phrase.head + 1))


def _missing(
    kind: str, source: Source, main: Sequence[Edit], places: Sequence[int], after: Word | None
) -> tuple[str, str] | None:
    """What stands behind "not": a determiner that may be empty, and the words that exclude those in their places."""
    new, last = main[0][3].lower(), places[-1]
    if kind == "negation_object":
        return _missing_object(source, main[0], places, after)
    if kind == "negation_attribute":
        joined = after is None or after.low in ("and", "or") or (last and source.low[last - 1] in ("and", "very"))
        return None if joined else ("", new.split()[-1])
    if kind == "negation_count":
        if len(main) == 1 and source.words[last].pos == "NOUN":
            return "", " ".join([new, *source.low[places[0] + (3 if source.low[places[0]] == "a" else 1) : last + 1]])
        if len(main) == 1:
            alone = len(places) == 1 and source.words[places[0]].pos == "NUM" and not new.startswith("a group")
            return ("", new) if alone else None
        whole = next((p for p in source.tagged.phrases if (p.start, p.head) == (places[0], last)), None)
        if whole is None:
            return None
        words = source.low[places[0] : last + 1]
        return "", " ".join([new, *words[1:-1], main[1][3].lower()])
    return "", new


def _missing_object(source: Source, edit: Edit, places: Sequence[int], after: Word | None) -> tuple[str, str] | None:
    last, old, new = places[-1], edit[2].lower().split(), edit[3].lower().split()
    phrase = next((phrase for phrase in source.tagged.phrases if phrase.head == last), None)
    if phrase is None or (after is not None and (after.low == "or" or after.pos in ("DET", "POSS", "NUM", "PRON", "NOUN", "ADJ"))):
        return None
    if old[0] in ("a", "an") and len(old) > 1:  # the article followed the noun, so it stands in the edit, too
        old, new = old[1:], new[1:]
    new += source.low[places[0] + len(old) : last + 1]
    first = source.words[phrase.start]
    if first.low in ("another", "each", "other"):
        return None
    before = first.low if first.pos in ("DET", "POSS", "NUM") else ""
    return article(new[0]) if before in ("a", "an") else before, " ".join(new)
