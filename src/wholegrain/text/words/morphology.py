"""Forms of words: number of nouns, forms of verbs, and ``a`` or ``an``; lemminflect's dictionary, and inflect's ear."""

from __future__ import annotations

from functools import cache, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

from wholegrain.text.words.lexicon import word_set

if TYPE_CHECKING:
    from inflect import engine

_NO_PLURAL = word_set("morphology_no_plural")
"""Said in one form only, or never counted in captions."""
_PLURALS = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "sheep": "sheep",
    "deer": "deer",
    "geese": "goose",
}
_MANY = {"person": "people"}
_VOWEL_SOUND = {
    "hour": True,
    "honest": True,
    "uniform": False,
    "unicycle": False,
    "university": False,
    "one": False,
    "used": False,
}


@cache
def _lemminflect() -> ModuleType:
    import lemminflect  # spaCy, where it is installed, comes along: not before it is needed

    return lemminflect


@cache
def _inflect() -> engine:
    import inflect

    return inflect.engine()


@lru_cache(maxsize=1 << 16)
def known_forms(word: str) -> dict[str, tuple[str, ...]]:
    """Part of speech (``NOUN``, ``VERB``, ``ADJ``, ``ADV``, …) -> lemmas of which the lower-case word is a form; empty if it is unknown."""
    return dict(_lemminflect().getAllLemmas(word))


@lru_cache(maxsize=1 << 16)
def singular(word: str) -> str:
    """The singular of a noun, or the word itself.

    Example:
        >>> [singular(word) for word in ("men", "dogs", "grass", "jeans")]
        ['man', 'dog', 'grass', 'jeans']
    """
    if word in _PLURALS:
        return _PLURALS[word]
    if word in _NO_PLURAL or not word.endswith("s") or word.endswith("ss"):
        return known_forms(word).get("NOUN", (word,))[0] if word[-1:] != "s" else word
    return known_forms(word).get("NOUN", (word,))[0]


@lru_cache(maxsize=1 << 16)
def plural(word: str) -> str:
    """The plural of a noun.

    Example:
        >>> [plural(word) for word in ("man", "frisbee", "bench", "person")]
        ['men', 'frisbees', 'benches', 'people']
    """
    if word in _MANY:
        return _MANY[word]
    return (_lemminflect().getInflection(word, "NNS") or (word + "s",))[0]


def counted(word: str) -> bool:
    """Whether there can be one and two of it."""
    return word not in _NO_PLURAL


@lru_cache(maxsize=1 << 16)
def verb_forms(lemma: str) -> tuple[str, str, str]:
    """Base, third person and -ing form.

    Example:
        >>> verb_forms("carry"), verb_forms("lie")
        (('carry', 'carries', 'carrying'), ('lie', 'lies', 'lying'))
    """
    if lemma == "be":
        return "are", "is", "being"
    third, ing = ((_lemminflect().getInflection(lemma, tag) or (lemma,))[0] for tag in ("VBZ", "VBG"))
    return lemma, third, ing


FORMS = ("base", "third", "ing")


@lru_cache(maxsize=1 << 16)
def verb_of(word: str) -> tuple[str, str]:
    """Lemma and form (``base``, ``third``, ``ing``, ``past``) of a verb's form; empty strings if it is none.

    Example:
        >>> verb_of("running"), verb_of("sits"), verb_of("covered")
        (('run', 'ing'), ('sit', 'third'), ('cover', 'past'))
    """
    for lemma in known_forms(word).get("VERB", ()):
        for form, name in zip(verb_forms(lemma), FORMS, strict=True):
            if form == word:
                return lemma, name
    lemmas = known_forms(word).get("VERB", ())
    if not lemmas:
        return "", ""
    return lemmas[0], "ing" if word.endswith("ing") else "third" if word.endswith("s") and word != lemmas[0] else "past"


@lru_cache(maxsize=1 << 16)
def article(word: str) -> str:
    """``a`` or ``an``, by the sound of the word.

    Example:
        >>> [article(word) for word in ("umbrella", "unicycle", "hour", "dog")]
        ['an', 'a', 'an', 'a']
    """
    word = word.lower()
    if word in _VOWEL_SOUND:
        return "an" if _VOWEL_SOUND[word] else "a"
    return str(_inflect().a(word)).split()[0]
