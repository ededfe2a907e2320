"""The noun phrases of texts, as texts of their own: what a score by phrases looks for in a picture, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wholegrain.text.words.tagging import BuiltinTagger, Tagger

NOWHERE = frozenset(["picture", "photo", "photograph", "image", "view", "scene", "top", "bottom", "left", "right", "side", "middle", "center", "centre"])
"""Nouns that name the picture itself or a part of its frame: no patch shows them, and every picture has them."""


@dataclass(frozen=True)
class NounPhrases:
    """The phrases that a tagger finds, as they stand in the text; not those that end in a word of :data:`NOWHERE`.

    Attributes:
        tagger: the built-in one by default; :class:`wholegrain.text.words.tagging_spacy.SpacyTagger` where spaCy is installed.

    Example:
        >>> NounPhrases()(["a picture of a red cup left of a blue sun at the bottom", "running"])
        [('a red cup', 'a blue sun'), ()]
    """

    tagger: Tagger = field(default_factory=BuiltinTagger)

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        return [
            tuple(
                tagged.text[tagged.words[p.start].start : tagged.words[p.head].end]
                for p in tagged.phrases
                if tagged.words[p.head].lemma not in NOWHERE
            )
            for tagged in self.tagger.tag(texts)
        ]
