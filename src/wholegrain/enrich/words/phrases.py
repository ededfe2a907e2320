"""The noun phrases of texts, as texts of their own: what a score by phrases looks for in a picture, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wholegrain.enrich.words.tagging import BuiltinTagger, Tagger


@dataclass(frozen=True)
class NounPhrases:
    """The phrases that a tagger finds, as they stand in the text.

    Attributes:
        tagger: the built-in one by default; :class:`wholegrain.enrich.words.tagging_spacy.SpacyTagger` where spaCy is installed.

    Example:
        >>> NounPhrases()(["a red cup left of a blue sun", "running"])
        [('a red cup', 'a blue sun'), ()]
    """

    tagger: Tagger = field(default_factory=BuiltinTagger)

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        return [
            tuple(tagged.text[tagged.words[p.start].start : tagged.words[p.head].end] for p in tagged.phrases)
            for tagged in self.tagger.tag(texts)
        ]
