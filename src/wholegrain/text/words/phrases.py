"""The noun phrases of texts, as texts of their own: what a score by phrases looks for in a picture, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from wholegrain.text.words.tagging import BuiltinTagger, Tagger, Word

PICTURES = frozenset(["picture", "photo", "photograph", "image", "view", "scene", "drawing", "close-up", "closeup"])
"""Nouns that name the picture itself: every picture has them, and no patch shows them."""
PLACES = frozenset(["top", "bottom", "left", "right", "side", "middle", "center", "centre", "front", "upper", "lower", "part"])
"""Words that name a part of the picture's frame, or of another thing ("in front of", "the lower part"), where nothing else is said of it."""


@dataclass(frozen=True)
class NounPhrases:
    """The phrases that a tagger finds, as they stand in the text; not those that name the picture (:data:`PICTURES`) or nothing but a
    place (:data:`PLACES`).

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
                if not _nowhere(tagged.words[p.start : p.head + 1])
            )
            for tagged in self.tagger.tag(texts)
        ]


def _nowhere(phrase: Sequence[Word]) -> bool:
    """Whether no patch shows what the phrase names; a "tank top" and a "purple top" are things."""
    lemma = phrase[-1].lemma
    bare = all(word.low in PLACES or word.pos in ("DET", "NUM") for word in phrase[:-1])
    return lemma in PICTURES or (lemma in PLACES and bare)
