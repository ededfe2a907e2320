"""The grammar of captions by a spaCy pipeline that the user names: :class:`SpacyTagger`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wholegrain.errors import UserError
from wholegrain.text.words.parts import POSSESSIVES
from wholegrain.text.words.tagging import Tagged, noun_phrases, word_of
from wholegrain.text.words.text import Token, tokens

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

_COARSE = {"PROPN": "NOUN", "CCONJ": "CONJ", "SCONJ": "CONJ", "INTJ": "X", "SYM": "PUNCT", "SPACE": "X"}


@dataclass
class SpacyTagger:
    """Coarse parts of speech from spaCy; lemmas and number of nouns follow from them by the same dictionary as the built-in tagger's.

    Args:
        pipeline: the name of an installed pipeline (``en_core_web_sm``) or a folder. Its parser and entity recogniser are not used.
        loaded: a pipeline at hand, instead of a name.
    """

    pipeline: str = "en_core_web_sm"
    loaded: Language | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._language = self.loaded = _load(self.pipeline) if self.loaded is None else self.loaded
        meta = self._language.meta
        self.identity = f"spacy {meta.get('lang', '')}_{meta.get('name', self.pipeline)} {meta.get('version', '')}".strip()

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The grammar of each text."""
        return [self._tagged(text, document) for text, document in zip(texts, self._language.pipe(texts), strict=True)]

    def _tagged(self, text: str, document: Doc) -> Tagged:
        tags = {place: token.pos_ for token in document for place in range(token.idx, token.idx + len(token.text))}
        words = tuple(word_of(token, _coarse(token, tags.get(token.start, "X"))) for token in tokens(text))
        return Tagged(text, words, noun_phrases(words))


def _coarse(token: Token, pos: str) -> str:
    if token.low in POSSESSIVES and pos in ("PRON", "DET"):
        return "POSS"
    return _COARSE.get(pos, pos)


def _load(name: str) -> Language:
    try:
        import spacy
    except ImportError:
        raise UserError('A spaCy tagger needs spaCy; install it with: pip install "wholegrain[enrich]"') from None
    try:
        return spacy.load(name, exclude=["parser", "ner"])
    except OSError as error:
        raise UserError(
            f"spaCy has no pipeline {name!r}; get it with: python -m spacy download {name} ({str(error).splitlines()[0]})"
        ) from None
