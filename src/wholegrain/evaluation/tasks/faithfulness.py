"""K-Precision: which share of a caption's words is backed by what people wrote about the picture?

SPARC (Bica et al., ICML 2024, sections 4.4 and 6) takes, for each picture, the caption that the model ranks first in the pool of all captions,
and asks which share of its words stands in the picture's true captions. The measure is Adlakha et al.'s (instruct-qa): lower case,
punctuation removed, a, an and the dropped, a *multiset* intersection with the reference, divided by the words of the prediction; 0 for an
empty one. The paper does not say whether five references are one long one or whether the best of them counts, so both are given:

* *union*: all references joined, so a word's counts add up (as instruct-qa does);
* *max*: the best single reference.

``…_na`` keeps nouns and adjectives of the prediction alone (the paper names no tagger; here spaCy's, and the figure is left out without it).
A caption that is one of the picture's own scores 1, so K-Precision is never below R@1 of image to text; a table in which it is has two
rankings.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins

Reference = Literal["union", "max"]
Tagger = Callable[[str], list[tuple[str, str]]]
"""text -> (token, Penn Treebank tag) pairs."""
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset({"a", "an", "the"})


def tokens(text: str) -> list[str]:
    """Lower-case words without punctuation and articles, as instruct-qa makes them.

    Example:
        >>> tokens("A dog's cup, on the mat.")
        ['dogs', 'cup', 'on', 'mat']
    """
    return [word for word in text.lower().translate(_NO_PUNCTUATION).split() if word not in _ARTICLES]


def content_tokens(text: str, tagger: Tagger) -> list[str]:
    """:func:`tokens` of the nouns and adjectives alone."""
    return tokens(" ".join(token for token, tag in tagger(text) if tag.startswith(("NN", "JJ"))))


def k_precision(prediction: Sequence[str], references: Sequence[Sequence[str]], reference: Reference = "union") -> float:
    """The share of the prediction's tokens that the references back.

    Args:
        prediction: tokens (:func:`tokens`, :func:`content_tokens`).
        references: tokens of each reference.
        reference: ``union`` or ``max``.

    Raises:
        UserError: without a reference, or for an unknown ``reference``.

    Example:
        >>> one, other = tokens("a dog on grass"), tokens("a dog and a cat")
        >>> k_precision(tokens("the dog and the grass"), [one, other]), k_precision(tokens("the dog and the grass"), [one, other], "max")
        (1.0, 0.6666666666666666)
    """
    if not references:
        raise UserError("K-Precision needs at least one reference; give the picture's captions.")
    if reference == "max":
        return max(k_precision(prediction, [one]) for one in references)
    if reference != "union":
        raise UserError(f"reference is {reference!r}; choose union or max.")
    if not prediction:
        return 0.0
    backed = Counter(prediction) & Counter(word for one in references for word in one)
    return sum(backed.values()) / len(prediction)


def faithfulness(
    encoded: Encoded, *, model: object = None, tagger: Tagger | None = None, draws: int = 20, seed: int = 0
) -> TaskResult:
    """K-Precision of the caption that the model ranks first for each picture, among all captions.

    Figures: ``k_precision_union``, ``k_precision_max``, with ``_na`` where there is a tagger; captions with equal scores are averaged (a fair
    coin). Chance: ``draws`` captions of the pool at random for each picture. Shuffled: each picture's place taken by another one.

    Args:
        model: only looked at for a joint ``score``.
        tagger: for the nouns and adjectives; ``None`` leaves those figures out.

    Raises:
        NotSupportedError: when a picture has no caption, or there is one picture alone.
    """
    owners = encoded.owner_N.tolist()
    mine: list[list[int]] = [[] for _ in encoded.keys]
    for n, owner in enumerate(owners):
        mine[owner].append(n)
    if len(mine) < 2 or not all(mine):
        raise NotSupportedError("Faithfulness needs two pictures or more, each with captions; choose another data set.")
    words = [tokens(text) for text in encoded.texts]
    kinds = {"": words} if tagger is None else {"": words, "_na": [content_tokens(text, tagger) for text in encoded.texts]}
    scorer = Scorer(encoded.image, encoded.text, model)
    order = stand_ins(encoded.keys, seed)
    assert order is not None, "there are two pictures or more"
    drawn = np.random.default_rng([seed, 12]).integers(0, len(words), (len(mine), draws)).tolist()
    first = _first(scorer)
    wanted = {"values": first, "chance": drawn, "shuffled": _first(scorer.permuted(torch.from_numpy(order)))}
    columns = {
        what: {
            f"k_precision_{how}{end}": np.array(
                [
                    np.mean([k_precision(spoken[n], [words[m] for m in mine[b]], how) for n in chosen])
                    for b, chosen in enumerate(places)
                ]
            )
            for end, spoken in kinds.items()
            for how in ("union", "max")
        }
        for what, places in wanted.items()
    }
    extra = {"retrieved": [encoded.texts[chosen[0]] for chosen in first]}
    keys = list(encoded.keys)
    rows = Rows(keys, [""] * len(keys), keys, columns["values"], columns["chance"], columns["shuffled"], extra=extra)
    protocol = (
        f"{len(keys):,} pictures: the first of {len(words):,} captions by the model's score, and which share of its words stands in the "
        f"picture's own captions{'' if tagger else '; no tagger, so no figure of nouns and adjectives alone'}."
    )
    return TaskResult("faithfulness", protocol, tuple(figures(rows, seed=seed)), table(rows))


def _first(scorer: Scorer) -> list[list[int]]:
    """The captions with the greatest score of each picture; several where they are equal."""
    found = []
    for _, scores in scorer.blocks():
        near = scores >= scores.max(1, keepdim=True).values - scorer.tolerance(scores)
        found += [row.nonzero().squeeze(1).tolist() for row in near]
    return found
