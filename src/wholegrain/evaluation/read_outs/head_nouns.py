"""Which tokens of a phrase are its head noun's: "cup" of "a small red cup" and of "a cup on a table"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.text.words.tagging import BuiltinTagger, Tagged

_TAGGER = BuiltinTagger()


class WordSpans(Protocol):
    """A tokeniser that knows its words: (start, end, first token, last token + 1) of each, in code points and places of a row."""

    def word_spans(self, text: str, /) -> list[tuple[int, int, int, int]]: ...


def head_noun(phrase: Phrase) -> tuple[int, int]:
    """Start and end of the head of the first noun phrase that ends within the phrase; of its last word, if there is none.

    Example:
        >>> text = "a small red cup on a table"
        >>> start, end = head_noun(Phrase(text))
        >>> text[start:end]
        'cup'
    """
    tagged = _TAGGER.tag([phrase.text])[0]
    return next(iter(_heads(tagged, phrase)), None) or _last_word(tagged, phrase)


def _heads(tagged: Tagged, phrase: Phrase) -> list[tuple[int, int]]:
    heads = [tagged.words[found.head] for found in tagged.phrases]
    return [(word.start, word.end) for word in heads if phrase.start <= word.start and word.end <= phrase.end]


def _last_word(tagged: Tagged, phrase: Phrase) -> tuple[int, int]:
    words = [word for word in tagged.words if word.pos != "PUNCT" and phrase.start <= word.start and word.end <= phrase.end]
    return (words[-1].start, words[-1].end) if words else (phrase.start, phrase.end)


def head_tokens(tokenizer: WordSpans, phrases: Sequence[Phrase], mask_NL: Tensor) -> Tensor:
    """bool ``[N, L]``: the tokens of each phrase's head noun; all real ones of a phrase whose noun has none (it was cut off, or a repair
    of the text has rewritten it).

    Args:
        mask_NL: the real tokens.
    """
    chosen_NL = torch.zeros_like(mask_NL)
    for n, phrase in enumerate(phrases):
        start, end = head_noun(phrase)
        for word_start, word_end, first, last in tokenizer.word_spans(phrase.text):
            if word_start < end and start < word_end:
                chosen_NL[n, first:last] = True
    return torch.where(chosen_NL.any(1, keepdim=True), chosen_NL & mask_NL, mask_NL)
