"""How good generated texts are, as far as numbers of text can say: counts, coverage, what words give away, how unlike captions are."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations, pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from wholegrain.data.record import Negative, Record
from wholegrain.enrich.negatives.edits import family
from wholegrain.enrich.negatives.negation import origin

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_FOLDS = 5


@dataclass
class Counts:
    """What there is.

    Attributes:
        images, captions: of the data set; ``captions`` without negated ones, which belong to the captions that they were made of.
        kinds: kind -> number of negatives.
        captions_with: kind -> captions that have at least one of it.
        covered: captions with at least one negative.
        kinds_per_caption, families_per_caption: mean numbers over all captions; a family is ``object``, ``attribute``, ``swap``, …
        roles: role -> captions; ``images_with`` -> images that have at least one of the role; ``words`` -> mean words.
    """

    images: int = 0
    captions: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    captions_with: dict[str, int] = field(default_factory=dict)
    covered: int = 0
    kinds_per_caption: float = 0.0
    families_per_caption: float = 0.0
    roles: dict[str, int] = field(default_factory=dict)
    images_with: dict[str, int] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)


def count(records: Iterable[Record], negatives: Mapping[tuple[str, str], Sequence[Negative]]) -> Counts:
    """Counts of captions and negatives; negatives of a negated caption count for the caption that it was made of."""
    found, words = Counts(), Counter[str]()
    of_kind, with_kind, of_role, with_role = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    kinds_total = families_total = 0
    for record in records:
        found.images += 1
        with_role.update({caption.role for caption in record.captions})
        kinds: defaultdict[str, set[str]] = defaultdict(set)
        own: set[str] = set()
        for caption in {caption.id: caption for caption in record.captions}.values():
            of_role[caption.role] += 1
            words[caption.role] += len(caption.text.split())
            of = origin(caption)[1] or caption.id
            own |= set() if origin(caption)[1] else {caption.id}
            for row in negatives.get((record.key, caption.id), ()):
                of_kind[row.kind] += 1
                kinds[of].add(row.kind)
        found.captions += len(own)
        for name in own:
            with_kind.update(kinds[name])
            found.covered += bool(kinds[name])
            kinds_total += len(kinds[name])
            families_total += len({family(kind).split("_")[0] for kind in kinds[name]})
    found.kinds_per_caption = kinds_total / max(found.captions, 1)
    found.families_per_caption = families_total / max(found.captions, 1)
    found.words = {role: words[role] / of_role[role] for role in of_role}
    found.kinds, found.captions_with, found.roles, found.images_with = map(dict, (of_kind, with_kind, of_role, with_role))
    return found


@dataclass(frozen=True)
class Diversity:
    """How unlike the captions of one image are, as a mean over images with at least two.

    Attributes:
        images: how many were looked at.
        overlap: Jaccard similarity of the sets of words of two captions (0 nothing in common, 1 the same words), mean over pairs.
        distinct_1, distinct_2: different words, and pairs of neighbouring words, as a share of all.
    """

    images: int
    overlap: float
    distinct_1: float
    distinct_2: float


def diversity(records: Iterable[Record], skip: frozenset[str] = frozenset()) -> Diversity:
    """Diversity inside images, of captions of all roles but those of ``skip``.

    Example:
        >>> from wholegrain.data.record import Caption
        >>> captions = (Caption("a", "a red dog"), Caption("b", "a red cat"))
        >>> diversity([Record("k", "", (1, 1), captions=captions)]).overlap
        0.5
    """
    overlaps, ones, twos = [], [], []
    for record in records:
        texts = [_WORD.findall(caption.text.lower()) for caption in record.captions if caption.role not in skip]
        texts = [text for text in texts if text]
        if len(texts) < 2:
            continue
        overlaps.append(np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in combinations(texts, 2)]))
        single = [word for text in texts for word in text]
        pairs = [pair for text in texts for pair in pairwise(text)]
        ones.append(len(set(single)) / len(single))
        twos.append(len(set(pairs)) / max(len(pairs), 1))
    if not overlaps:
        return Diversity(0, float("nan"), float("nan"), float("nan"))
    return Diversity(len(overlaps), *(float(np.mean(values)) for values in (overlaps, ones, twos)))


def logistic_wins(true: Sequence[str], false: Sequence[str], images: Sequence[str], decay: float = 1.0) -> np.ndarray:
    """What a logistic model of word counts scores: float64 ``[N]``, 1 where it finds the true text, 1/2 where it cannot say, else 0.

    It learns from pairs (words of the true text minus words of the false text) of other images, in five parts.

    Args:
        true, false: ``[N]`` texts.
        images: ``[N]`` keys; pairs of one image are in one part.
        decay: weight of the squared weights, beside the summed loss.
    """
    columns: dict[str, int] = {}
    rows, cols, values = [], [], []
    for n, (a, b) in enumerate(zip(true, false, strict=True)):
        change = Counter(_WORD.findall(a.lower()))
        change.subtract(_WORD.findall(b.lower()))
        for word, times in change.items():
            if times:
                rows.append(n)
                cols.append(columns.setdefault(word, len(columns)))
                values.append(times)
    matrix = csr_matrix((np.array(values, dtype=np.float64), (rows, cols)), shape=(len(true), max(len(columns), 1)))
    fold_N = np.array([blake2b(key.encode(), digest_size=2).digest()[0] % _FOLDS for key in images])
    won_N = np.full(len(true), 0.5)
    for fold in range(_FOLDS):
        here = fold_N == fold
        if here.any() and not here.all():
            scores = matrix[here] @ _weights(matrix[~here], decay)
            won_N[here] = np.where(np.abs(scores) < 1e-9, 0.5, scores > 0)
    return won_N


def _weights(pairs: csr_matrix, decay: float) -> np.ndarray:
    transposed, columns = csr_matrix(pairs.T), int(pairs.get_shape()[1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = pairs @ weights
        wrong = 1 / (1 + np.exp(np.clip(scores, -50, 50)))
        value = np.logaddexp(0, -scores).sum() + decay * (weights @ weights) / 2
        return float(value), decay * weights - transposed @ wrong

    return minimize(loss, np.zeros(columns), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
