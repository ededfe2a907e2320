"""Parts of speech of a caption's words, from left to right: closed word lists, a dictionary of forms (lemminflect), and each word's neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from wholegrain.text.words.lexicon import lexicon, word_set
from wholegrain.text.words.morphology import counted, known_forms, singular, verb_of

DETERMINERS = word_set("tagging_determiners")
POSSESSIVES = frozenset(["his", "her", "its", "their", "my", "your", "our"])
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PREPOSITIONS = word_set("tagging_prepositions")
OWNERS = ("'s", "’s")
NOUN_FIRST = word_set("tagging_noun_first")
COLOURS = word_set("tagging_adj_first")
"""Colours, and a few adjectives more that are nouns where no noun follows."""
DEGREES = word_set("tagging_degrees")
_THINGS = word_set("tagging_things")
_DEEDS = word_set("tagging_deeds")
_SPORTS = word_set("tagging_sports")
_ING_ADJ = word_set("tagging_ing_adj")
_DOERS = word_set("tagging_doers")
_CLOSED = (
    ("NUM", frozenset(NUMBERS)), ("DET", DETERMINERS), ("POSS", POSSESSIVES), ("AUX", word_set("tagging_auxiliaries")),
    ("PRON", word_set("tagging_pronouns")), ("CONJ", word_set("tagging_conjunctions")), ("ADP", PREPOSITIONS),
    ("ADV", word_set("tagging_adverbs")), ("ADJ", word_set("tagging_adj_only")), ("PART", frozenset({"n't"})),
)  # fmt: skip
_TWO_WAYS = {"back": ("ADV", "ADJ", "NOUN"), "next": ("ADV", "ADJ")}
_BEFORE_NOUN = ("DET", "NUM", "POSS", "ADJ")
_ALONE = frozenset({"that", "all", "both"})  # determiners that also stand without a noun: "both wear hats"
_BEFORE_ONE = frozenset({"another", "each", "every"})
_SUBJECTS = frozenset({"he", "she", "it", "who", "which", "that"})
_PLURAL_SUBJECTS = frozenset({"they", "who", "that", "to", "people", "others"})


def parts_of_speech(words: Sequence[str]) -> list[str]:
    """The part of speech of each word.

    Args:
        words: the tokens of a caption as they are written.

    Example:
        >>> parts_of_speech(["A", "dog", "in", "red", "runs"])
        ['DET', 'NOUN', 'ADP', 'NOUN', 'VERB']
    """
    reading = _Reading(words)
    for n in range(len(words)):
        reading.tags.append(reading.choose(n))
    return reading.tags


@lru_cache(maxsize=1 << 16)
def _possible(word: str) -> tuple[str, ...]:
    """The parts of speech that a word can be, whatever stands around it."""
    if word in _TWO_WAYS:
        return _TWO_WAYS[word]
    for name, words in _CLOSED:
        if word in words:
            return (name,)
    if word[0].isdigit():
        return ("NUM",)
    if word.endswith(OWNERS):
        return ("POSS",)
    if not word[0].isalpha():
        return ("PUNCT",)
    found = [pos for pos in known_forms(word) if pos in ("NOUN", "VERB", "ADJ", "ADV")]
    words = lexicon()
    if word in words.modifiers and word not in NOUN_FIRST:
        found = ["ADJ", *(pos for pos in found if pos != "ADJ")]
    if (word in NOUN_FIRST or singular(word) in words.nouns) and "NOUN" not in found:
        found.append("NOUN")
    if found:
        return tuple(found)
    if word.endswith("ing"):
        return ("VERB",)
    return ("ADV",) if word.endswith("ly") else ("ADJ", "NOUN") if word.endswith("ed") or "-" in word else ("NOUN",)


def _fixed(before: str, word: str, after: str, last: str) -> tuple[str, ...]:
    """What a word is for what stands beside it; empty where that does not tell."""
    if (before, word) in (("each", "other"), ("one", "another")):
        return ("PRON",)
    if word in ("left", "right") and after == "of" and before not in PREPOSITIONS:
        return ("ADJ",) if before in DETERMINERS else ("ADV",)  # "to the left of" names no thing
    if word in ("light", "dark", "bright") and (after in COLOURS or after.endswith("ed")):
        return ("ADJ",)  # "light blue", "light colored"
    if word in _SPORTS and _is_ing(after) and not {"DET", "POSS", "ADJ"} & set(_possible(before)):
        return () if last and "NOUN" in _possible(last) else ("ADV",)  # "two men rock climbing"
    return ()


class _Reading:
    """A caption that is read from left to right.

    Attributes:
        written: its words as they stand.
        words: the same in lower case.
        can: the parts of speech that each word can be.
        tags: those of the words read so far.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.written = words
        self.words = [word.lower() for word in words]
        padded = [*self.words, "", ""]
        fixed = [_fixed(padded[n - 1], *padded[n : n + 3]) if n else () for n in range(len(words))]
        self.can = [some or _possible(word) for some, word in zip(fixed, self.words, strict=True)]
        self.tags: list[str] = []

    def word(self, n: int) -> str:
        """A word in lower case; empty outside the caption."""
        return self.words[n] if 0 <= n < len(self.words) else ""

    def after(self, n: int) -> tuple[str, ...]:
        """What the next word can be."""
        return self.can[n + 1] if n + 1 < len(self.can) else ("PUNCT",)

    def before(self, n: int) -> str:
        """What the word before is."""
        return self.tags[n - 1] if n else ""

    def choose(self, n: int) -> str:
        """The part of speech of a word, those before it being known."""
        can, word = self.can[n], self.words[n]
        if word in OWNERS:
            owned = self.before(n) == "NOUN" or self.word(n - 1) in ("someone", "else")
            return "POSS" if owned else "AUX"  # "a dog 's tail", "that 's red"
        if len(can) == 1 and can[0] != "VERB":
            return can[0]
        if word in _TWO_WAYS:
            return "ADV" if self.before(n) not in ("DET", "POSS") else "ADJ" if self.noun_follows(n) else can[-1]
        if can == ("ADJ", "NOUN") and (not known_forms(word) or word == "plain"):
            return self._unknown(n)
        if word in COLOURS or ("ADJ" in can and "VERB" not in can):
            return self._adjective_or_noun(n)
        if "VERB" not in can:
            return "NOUN" if "NOUN" in can and (self.before(n) in _BEFORE_NOUN or word in NOUN_FIRST) else can[0]
        return self._noun_or_verb(n) if "NOUN" in can else self._verb_or_adjective(n)

    def _described(self, n: int) -> bool:
        """Whether the word before belongs to a noun."""
        return self.before(n) in _BEFORE_NOUN and self.word(n - 1) not in _ALONE

    def _unknown(self, n: int) -> str:
        """Words like "t-shirts" and "a four-wheeler", "upside-down" and "a long-haired dog"."""
        word, last = self.words[n], self.words[n].rpartition("-")[2]
        thing = singular(last) != last or (self._described(n) and ("-" not in word or not last.endswith("ed")))
        return "NOUN" if thing and not self.noun_follows(n) else "ADJ"

    def _adjective_or_noun(self, n: int) -> str:
        acts = self._can_act(n) and _is_deed(self.word(n + 1), self._several())  # "a boy in red jumps", "an adult holds a cup"
        if (self.noun_follows(n) and not acts) or self._list_goes_on(n) or "NOUN" not in self.can[n] or self.before(n) == "AUX":
            return "ADJ"
        return "NOUN"

    def _verb_or_adjective(self, n: int) -> str:
        word, can, form = self.words[n], self.can[n], verb_of(self.words[n])[1]
        before, low, noun_follows = self.before(n), self.word(n - 1), self.noun_follows(n)
        adjective = form == "past" or "ADJ" in can or word in _ING_ADJ
        if noun_follows and adjective and (before == "ADP" or low.endswith("ing")):
            return "ADJ"  # "in crowded streets", "making excited faces"
        if noun_follows and adjective and self._is_compounded(n, form):
            return "ADJ"
        if not self._described(n):
            return "VERB"
        if form in ("base", "third") and len(can) == 1 and not noun_follows and before != "NUM":
            return "NOUN"  # "an eject"
        participle = len(can) > 1 or form == "past" or (form == "ing" and before != "NUM")  # "two wearing hats"
        return "ADJ" if participle and noun_follows else "VERB"

    def _noun_or_verb(self, n: int) -> str:
        word, before, low = self.words[n], self.before(n), self.word(n - 1)
        if low == "-" or word in NOUN_FIRST:
            return "NOUN"
        lemma, form = verb_of(word)
        if form in ("ing", "past"):
            return self._participle(n, form)
        if self._described(n):
            return "VERB" if form == "third" and low in _BEFORE_ONE else "NOUN"
        if form == "third":
            return "VERB" if lemma == "lie" or self._is_said_of_one(n) else "NOUN"
        return "VERB" if self._is_said_of_many(n) or low in ("can", "will") or (before == "CONJ" and self._goes_on(n)) else "NOUN"

    def _participle(self, n: int, form: str) -> str:
        before, noun_follows = self.before(n), self.noun_follows(n)
        if noun_follows and (before in _BEFORE_NOUN or self._is_compounded(n, form)):
            return "ADJ"
        if form == "ing":
            matching = before == "ADP" and noun_follows and self.words[n] in _ING_ADJ  # "in matching outfits"
            return "ADJ" if matching else "NOUN" if before in _BEFORE_NOUN else "VERB"
        if before in ("DET", "POSS"):
            return "NOUN"  # "his shot"
        return "VERB" if before in ("NOUN", "AUX", "PRON", "ADV") else "ADJ"

    def _is_said_of_one(self, n: int) -> bool:
        """Whether a word in -s is a verb: "a dog runs", "a group of people stands"; not "winter costumes"."""
        word, before, low = self.words[n], self.before(n), self.word(n - 1)
        if before == "NOUN" and not self._object_follows(n) and self._names(word):
            return False
        if low in _SUBJECTS or before == "ADV" or (before == "NOUN" and (singular(low) == low or self.word(n - 2) == "of")):
            return True
        goes_on = self._has_verb() and self.after(n)[0] in ("DET", "ADP", "POSS", "PUNCT", "NUM")
        return before in ("CONJ", "PUNCT") and goes_on and word not in _THINGS

    def _is_said_of_many(self, n: int) -> bool:
        """Whether the base form of a verb is one: "two dogs run", "a man and a dog run", "two people in black clothing stand together"."""
        word, low, after = self.words[n], self.word(n - 1), self.after(n)[0]
        if low in _PLURAL_SUBJECTS or (low in ("all", "both") and word in _DEEDS):
            return True
        if self.before(n) != "NOUN":
            return False
        if singular(low) != low or (_is_many(low) and word not in lexicon().nouns):
            return True
        if not self._has_verb() and "and" in self.words[:n] and after in ("ADP", "PUNCT", "DET"):
            return True
        return word in _DEEDS and self._several() and not self._clause_has_verb() and after in ("ADP", "DET", "ADV", "POSS")

    def _goes_on(self, n: int) -> bool:
        """Whether "and" can join a word to the verb of the clause: "people sit and watch the game"."""
        return self._has_verb() and self.after(n)[0] in ("DET", "ADP", "POSS", "PUNCT") and self.word(n - 1) == "and"

    def noun_follows(self, n: int) -> bool:
        """Whether a noun stands behind a word, or adjectives and then a noun: "a dotted [crescent] placed over a flag" has none."""
        colour = self.words[n] in COLOURS
        of_noun = self.word(n - 1) in DETERMINERS
        alone = self.words[n] in _TWO_WAYS or (colour and not of_noun and self.word(n - 1) not in POSSESSIVES)
        for m in range(n + 1, len(self.words)):
            word, can = self.words[m], self.can[m]
            if ("NOUN" in can and word not in _TWO_WAYS) or (can == ("POSS",) and word.endswith(OWNERS) and word not in OWNERS):
                deed = alone and _is_ing(word) and word not in _ING_ADJ  # "in red skiing", "his back holding"
                return not deed and (can[0] != "VERB" or "ADJ" in can or word in NOUN_FIRST)
            floating = (
                colour and can == ("VERB",) and ((of_noun and _is_ing(word)) or word in _ING_ADJ)
            )  # "an orange floating toy"
            if "ADJ" not in can and not floating and not (word in ("and", ",", "but", "-") and m > n + 1):
                return False
        return False

    def _list_goes_on(self, n: int) -> bool:
        """Whether a colour follows after "and" or a comma, or another adjective of the same noun: "a white, fluffy dog"."""
        m = n + 1
        while m < n + 3 and self.word(m) in ("and", ",", "but"):
            m += 1
        if m == n + 1 or m >= len(self.words):
            return False
        return self.words[m] in COLOURS or (self.can[m] == ("ADJ",) and self.noun_follows(m))

    def _is_compounded(self, n: int, form: str) -> bool:
        """Whether a participle is graded, or makes one adjective with the noun before: "freshly mowed grass", "snow covered hill"."""
        low = self.word(n - 1)
        if low.endswith("ly") or low in DEGREES:
            return form == "past" or "ADJ" in self.can[n] or self.words[n] in _ING_ADJ
        return form == "past" and self.before(n) == "NOUN" and _makes_compounds(low) and self._is_covered(n + 1)

    def _is_covered(self, n: int) -> bool:
        """Whether a word can follow "snow covered": no name ("a boat called Neptuno"), no deed, no colour alone ("his face painted white")."""
        word = self.words[n]
        return not self.written[n][0].isupper() and not _is_deed(word) and (word not in COLOURS or self.noun_follows(n))

    def _can_act(self, n: int) -> bool:
        """Whether an adjective can be somebody: "a man in red [runs]", "in red and white", "an adult"; not "small waves"."""
        before = self.before(n)
        if self.words[n] not in COLOURS:
            return next((tag for tag in reversed(self.tags) if tag not in ("ADJ", "NOUN")), "") == "DET"
        return before in ("ADP", "VERB") or (before == "CONJ" and n > 2 and self.tags[n - 3] in ("ADP", "VERB"))

    def _object_follows(self, n: int) -> bool:
        """Whether the next word begins something that a verb here is done to: "[lights] a fire", "[lights] torches"."""
        after, word = self.after(n), self.word(n + 1)
        return (after[0] in ("DET", "POSS") and word not in _ALONE) or (after == ("NOUN",) and _is_many(word))

    def _names(self, word: str) -> bool:
        """Whether a word in -s names things: always, or because the clause has its verb ("they jump their BMX [bikes]")."""
        return word in _THINGS or (self._clause_has_verb() and (not _is_deed(word) or singular(word) in lexicon().nouns))

    def _has_verb(self) -> bool:
        """Whether there was a verb before."""
        return "VERB" in self.tags or "AUX" in self.tags

    def _clause_has_verb(self) -> bool:
        """Whether the clause so far has a verb that is no participle."""
        for word, tag in zip(reversed(self.words[: len(self.tags)]), reversed(self.tags), strict=True):
            if tag in ("CONJ", "PUNCT") or word in _SUBJECTS:
                return False
            if tag == "AUX" or (tag == "VERB" and verb_of(word)[1] in ("base", "third")):
                return True
        return False

    def _several(self) -> bool:
        """Whether the first noun of the caption is several, or joined by "and" to another."""
        first = next((word for word, tag in zip(self.words, self.tags, strict=False) if tag == "NOUN"), None)
        return first is not None and (singular(first) != first or "and" in self.words[: len(self.tags)])


def _makes_compounds(noun: str) -> bool:
    """Whether a noun can make one adjective with a participle behind it ("snow covered"): not several, and nobody who does the deed."""
    being = any(group.kind == "being" for group in lexicon().groups_of.get(singular(noun), ()))
    return (singular(noun) == noun or not noun.endswith("s")) and not being and noun not in _DOERS


def _is_ing(word: str) -> bool:
    """Whether a word is a verb's -ing form and no thing: "skiing", not "building" or "during"."""
    return word.endswith("ing") and word not in NOUN_FIRST | PREPOSITIONS and verb_of(word)[1] == "ing"


def _is_many(noun: str) -> bool:
    """Whether a noun is a plural, or said as one only: "dogs", "jeans"."""
    return singular(noun) != noun or (noun.endswith("s") and not noun.endswith(("is", "ss")) and not counted(noun))


def _is_deed(word: str, several: bool = False) -> bool:
    """Whether a word that ends in -s says what somebody does rather than names things; of several, also one without -s."""
    lemma, form = verb_of(word)
    of_one = form == "third" and word not in _THINGS and (lemma in _DEEDS or lemma in lexicon().frames_of)
    return of_one or (several and word in _DEEDS)
