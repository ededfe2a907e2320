"""Hard negatives of every caption by word rules: :class:`NegativesStage`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from importlib.resources import files

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.enrich.negatives import balance as balancing
from wholegrain.enrich.negatives.edits import EDITS, KINDS, family
from wholegrain.enrich.negatives.negation import NEGATED, NEGATIONS, negation_edits
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.text.words.source import LONGEST, MOST_CAPTIONS, Source, picture_words, stream
from wholegrain.text.words.tagging import BuiltinTagger, Tagged, Tagger
from wholegrain.text.words.text import Edited, edited

VERSION = 3
ALL_KINDS = (*KINDS, *NEGATIONS)
BALANCES = ("words", "length")
_FIT_CAPTIONS = 16_000
_OPEN = ("object_", "attribute_colour")  # of so many words that a small imbalance of some of them tells little
_RARE = 3  # a word that a large collection uses less often would mark a false text
_LARGE = 2_000


@dataclass(frozen=True)
class Collection:
    """Facts of a whole collection of captions.

    Attributes:
        vocabulary: how often it uses each word; false texts are made of these alone. ``None`` allows all.
        weights: kind -> weights of words, see :mod:`~wholegrain.enrich.negatives.balance`.
    """

    vocabulary: Mapping[str, int] | None = None
    weights: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class NegativesStage(Stage):
    """False texts by word rules, at most ``per_kind`` of each kind for every caption.

    Args:
        kinds: of :data:`ALL_KINDS`; ``object``, ``attribute`` and ``negation`` stand for all that begin so.
        per_kind: most false texts of one kind for one caption.
        seed: of all draws. What is drawn for a caption depends on this seed, the record's key, the caption's id, the kind and the collection.
        tagger: grammar; built in by default.
        balance: what is to tell nothing: ``words`` (each goes in as often as it comes out) and ``length``; empty draws evenly.

    Example:
        >>> from wholegrain.data.record import Caption, Record
        >>> record = Record("k", "k.jpg", (8, 8), captions=(Caption("c", "Two dogs run on the beach ."),))
        >>> stage = NegativesStage(kinds=("count",))
        >>> stage.rows([record], [None])[0][0].kind
        'count'
    """

    kinds: Sequence[str] = ALL_KINDS
    per_kind: int = 1
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)
    balance: Sequence[str] = BALANCES
    collection: Collection = field(default_factory=Collection)

    name = "negatives"
    table = "negatives"

    def __post_init__(self) -> None:
        wanted = [k for kind in self.kinds for k in ([k for k in ALL_KINDS if k.startswith(f"{kind}_")] or [kind])]
        unknown = [kind for kind in wanted if kind not in ALL_KINDS]
        if unknown:
            near = closest(unknown[0], [*ALL_KINDS, "object", "attribute", "negation"])
            raise UserError(f"There is no kind {unknown[0]!r} of hard negatives; {near}")
        if set(self.balance) - set(BALANCES):
            raise UserError(f"Hard negatives can be balanced by {' and '.join(BALANCES)}, not by {', '.join(self.balance)}.")
        self.kinds = tuple(dict.fromkeys(wanted))

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {
            "method": "word rules", "version": VERSION, "lexicon": _lexicon_digest(), "kinds": list(self.kinds), "per_kind": self.per_kind,
            "seed": self.seed, "tagger": self.tagger.identity, "balance": list(self.balance),
        }  # fmt: skip

    @property
    def source(self) -> str:
        """What is written into every row."""
        return f"word rules {VERSION}, {self.tagger.identity}, seed {self.seed}"

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Counts words, and weighs edits so that what is drawn is balanced; of large collections, over a sample of the captions."""
        self.fit_records(dataset.record(key) for key in sorted(keys))

    def fit_records(self, records: Iterable[Record]) -> None:
        """:meth:`fit` for records at hand."""
        kept: list[Record] = []
        counts: Counter[str] = Counter()
        captions = 0
        for record in records:
            texts = [caption.text for caption in record.captions if caption.role != NEGATED]
            captions += len(texts)
            for text in texts:
                counts.update(text.lower().replace(".", " ").replace(",", " ").split())
            kept.append(record)
        least = _RARE if captions >= _LARGE else 1
        self.collection = Collection({word: count for word, count in counts.items() if count >= least})
        if not self.balance:
            return
        share = min(1.0, _FIT_CAPTIONS / max(captions, 1))
        changes: defaultdict[str, list[list[balancing.Features]]] = defaultdict(list)
        for record in kept:
            if stream(self.seed, record.key, "fit").random() < share:
                plain = replace(record, captions=tuple(c for c in record.captions if c.role != NEGATED))
                for _, _, made in self.possible(plain):  # negation exchanges words that are there: nothing to balance
                    for kind, found in made.items():
                        changes[kind].append([self.features(one) for one in found])
        weights = {
            kind: balancing.fit(found, counts, balancing.SLACK if kind.startswith(_OPEN) else 0.0) for kind, found in sorted(changes.items())
        }
        self.collection = Collection(self.collection.vocabulary, weights)

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The false texts of each record, by caption and kind."""
        return [list(self.of(record)) for record in records]

    def of(self, record: Record) -> Iterator[Negative]:
        """The false texts of one record."""
        for caption, _, made in self.possible(record):
            seen: set[str] = set()
            for kind in self.kinds:
                found = [one for one in made.get(kind, ()) if one.text.lower() not in seen]
                if not found:
                    continue
                draw = stream(self.seed, record.key, caption.id, kind, "draw")
                weights = self.collection.weights.get(kind, {})
                for n in balancing.drawn([self.features(one) for one in found], weights, self.per_kind, draw):
                    seen.add(found[n].text.lower())
                    yield Negative(record.key, caption.id, kind, found[n].text, found[n].edits, self.source)

    def features(self, one: Edited) -> balancing.Features:
        """What an edit changes, of what is balanced."""
        return balancing.features(one.edits, words="words" in self.balance, length="length" in self.balance)

    def possible(self, record: Record) -> Iterator[tuple[Caption, Source, dict[str, list[Edited]]]]:
        """Every caption with all that could be made of it, by kind."""
        for caption, source in sources(record, self.tagger, self.collection.vocabulary):
            made: dict[str, dict[str, Edited]] = {}
            for name in dict.fromkeys(family(kind) for kind in self.kinds):
                draw = stream(self.seed, record.key, caption.id, name)
                if (caption.role == NEGATED) != (name == "negation"):
                    continue
                edits = negation_edits(caption) if name == "negation" else EDITS[name](source, draw)
                for kind, changes in edits:
                    one = edited(kind, caption.text, changes)
                    if one.text.lower() not in source.picture.texts:
                        made.setdefault(kind, {}).setdefault(one.text.lower(), one)
            yield caption, source, {kind: list(found.values()) for kind, found in made.items() if kind in self.kinds}


def sources(record: Record, tagger: Tagger, vocabulary: Mapping[str, int] | None) -> Iterator[tuple[Caption, Source]]:
    """Each distinct caption of a record with what the rules see of it. Negated captions say what is not there, so they speak for no other one.

    Captions longer than ``LONGEST`` (:mod:`wholegrain.text.words.source`) are left out: no text tower reads so far, and the pairs of words
    that could change places grow with the square of their number. Their beginnings speak for the others all the same. Of a record with
    more than ``MOST_CAPTIONS`` captions the first ones are looked at.
    """
    distinct = list({caption.id: caption for caption in record.captions}.values())[:MOST_CAPTIONS]
    plain = [caption for caption in distinct if caption.role != NEGATED]
    tagged = tagger.tag([caption.text[:LONGEST] for caption in plain])
    for caption, its, picture in zip(plain, tagged, picture_words(tagged), strict=True):
        if len(caption.text) <= LONGEST:
            yield caption, Source(its, picture, vocabulary)
    negated = [caption for caption in distinct if caption.role == NEGATED and len(caption.text) <= LONGEST]
    for caption in negated:
        text = Tagged(caption.text, (), ())
        yield caption, Source(text, picture_words([*tagged, text])[-1], vocabulary)


def _lexicon_digest() -> str:
    total = blake2b(digest_size=8)
    folder = files("wholegrain.text.words.lexicon")
    for name in ("nouns", "attributes", "relations", "verbs", "words"):
        total.update((folder / f"{name}.toml").read_bytes())
    return total.hexdigest()
