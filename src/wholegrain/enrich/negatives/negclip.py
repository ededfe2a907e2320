"""NegCLIP's negatives: two words or phrases of a caption change places. Yuksekgonul et al., ICLR 2023, section 4.

The paper's kinds: nouns, adjectives, adverbs, verbs, noun phrases; it takes one at random. No word is checked, so a share of the texts is
ungrammatical ("a dog and a the cat"), and a share is true ("a man and a woman" becomes "a woman and a man").
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative, Record
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.text.words.source import LONGEST, MOST_CAPTIONS, Source, picture_words, stream
from wholegrain.text.words.tagging import BuiltinTagger, Tagged, Tagger
from wholegrain.text.words.text import Edit, apply

KINDS = ("swap_noun", "swap_adjective", "swap_adverb", "swap_verb", "swap_phrase")
_POS = {"swap_noun": "NOUN", "swap_adjective": "ADJ", "swap_adverb": "ADV", "swap_verb": "VERB"}
VERSION = 1


@dataclass
class NegClipStage(Stage):
    """Swaps inside a caption, as NegCLIP makes them.

    Args:
        kinds: of :data:`KINDS`.
        per_caption: how many kinds, drawn at random, are made for a caption; 0 makes all that it allows. The paper has 1.
        seed: of all draws.
        tagger: grammar. The paper has spaCy's ``en_core_web_sm``.
    """

    kinds: Sequence[str] = KINDS
    per_caption: int = 1
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)

    name = "negclip"
    table = "negatives"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown:
            raise UserError(f"There is no kind {unknown[0]!r} of NegCLIP's swaps; {closest(unknown[0], KINDS)}")

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {
            "method": "negclip", "version": VERSION, "kinds": list(self.kinds), "per_caption": self.per_caption, "seed": self.seed,
            "tagger": self.tagger.identity,
        }  # fmt: skip

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Nothing of the collection is needed."""

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The swaps of each record."""
        return [list(self._of(record)) for record in records]

    def _of(self, record: Record) -> Iterator[Negative]:
        captions = list({c.id: c for c in record.captions if len(c.text) <= LONGEST}.values())[:MOST_CAPTIONS]
        tagged = self.tagger.tag([caption.text for caption in captions])
        own = {caption.text.lower() for caption in captions}
        for caption, its in zip(captions, tagged, strict=True):
            draw = stream(self.seed, record.key, caption.id, "negclip")
            made = {kind: edits for kind in self.kinds if (edits := _swap(its, kind, draw)) is not None}
            chosen = list(made) if not self.per_caption else draw.sample(list(made), min(self.per_caption, len(made)))
            for kind in chosen:
                text = apply(caption.text, made[kind])
                if text.lower() not in own:
                    source = f"negclip {VERSION}, {self.tagger.identity}, seed {self.seed}"
                    yield Negative(record.key, caption.id, kind, text, tuple(made[kind]), source)


def _swap(tagged: Tagged, kind: str, draw: random.Random) -> list[Edit] | None:
    if kind == "swap_phrase":
        places = [(phrase.start, phrase.head) for phrase in tagged.phrases]
    else:
        places = [(n, n) for n, word in enumerate(tagged.words) if word.pos == _POS[kind]]
    texts = {tagged.text[tagged.words[a].start : tagged.words[b].end].lower() for a, b in places}
    if len(texts) < 2:
        return None
    source = Source(tagged, picture_words([tagged])[0])
    while True:
        one, other = sorted(draw.sample(places, 2))
        changes = source.swap(one, other)
        if changes[0][2].lower() != changes[1][2].lower():
            break
    capital = tagged.text[changes[0][0]].isupper() and one[0] == 0
    first = changes[0][2][:1].upper() + changes[0][2][1:] if capital else changes[0][2]
    return [(s, e, tagged.text[s:e], new) for (s, e, _), new in zip(changes, (first, changes[1][2]), strict=True)]
