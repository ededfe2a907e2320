"""Drawing false texts so that words and lengths do not give them away.

Of the edits that a collection of captions allows, some are drawn, at most so many a caption. If every word goes in as often as it comes
out, no model of words alone can do better than guess: for pairs (true, false) the gradient of a logistic model at weight zero is the sum
of (words of the true text − words of the false text), and that sum is zero. The draw used here is, among all draws with these sums equal
to zero, the one of greatest entropy:

    p(edit | caption) = exp(w · f(edit)) / (e + sum over the caption's edits of exp(w · f)),     f = words put in − words taken out

The share e is left for drawing none: a word that can only come out (where every caption says "a" and none says "seven") is then left
alone. The weights w are the minimum of a convex function, the sum of the logarithms of the denominators, whose gradient is the expected
sum of f. A last entry of f is the sign of the change of length, so that "the shorter text is true" is right half of the time.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import exp
from typing import TypeAlias

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from wholegrain.enrich.text import Edit

NONE = 0.001
"""Weight of drawing nothing, beside a total of 1 for all edits of a caption before they are weighed."""
_FLOOR = 1e-4
LENGTH = "<length>"
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
Features: TypeAlias = Mapping[str, int]


def features(edits: Sequence[Edit], *, words: bool = True, length: bool = True) -> Features:
    """What an edit changes: +1 for a word put in, -1 for one taken out; :data:`LENGTH` is +1 for a longer text, -1 for a shorter one.

    Length is counted in words, then in characters.

    Example:
        >>> features([(2, 5, "red", "dark green")]) == {"red": -1, "dark": 1, "green": 1, "<length>": 1}
        True
    """
    change: Counter[str] = Counter()
    longer = characters = 0
    for _, _, old, new in edits:
        if words:
            change.update(_WORD.findall(new.lower()))
            change.subtract(_WORD.findall(old.lower()))
        longer += len(new.split()) - len(old.split())
        characters += len(new) - len(old)
    found = {word: count for word, count in change.items() if count}
    if length and (longer or characters):
        found[LENGTH] = 1 if (longer or characters) > 0 else -1
    return found


def fit(captions: Iterable[Sequence[Features]]) -> dict[str, float]:
    """Weights of words under which what goes in comes out as often, over these captions.

    Args:
        captions: for each caption the features of every edit that it allows; captions without edits may be left out.

    Returns:
        word -> weight, rounded to 1/1000 so that they do not depend on the machine; words that they do not name weigh nothing.
    """
    columns: dict[str, int] = {}
    rows, cols, values, sizes = [], [], [], []
    row = 0
    for edits in captions:
        if not edits:
            continue
        sizes.append(len(edits))
        for change in edits:
            for word, count in change.items():
                rows.append(row)
                cols.append(columns.setdefault(word, len(columns)))
                values.append(count)
            row += 1
    if not columns:
        return {}
    matrix = csr_matrix((np.array(values, dtype=np.float64), (rows, cols)), shape=(row, len(columns)))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    base = -np.log(np.array(sizes, dtype=np.float64))[owner]
    transposed = matrix.T.tocsr()

    def total(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = base + matrix @ weights
        top = np.maximum(np.maximum.reduceat(scores, starts), np.log(NONE))
        raised = np.exp(scores - top[owner])
        sums = np.add.reduceat(raised, starts) + NONE * np.exp(-top)
        gradient = transposed @ (raised / sums[owner]) + 2 * _FLOOR * len(sizes) * weights / len(columns)
        value = (np.log(sums) + top).sum() + _FLOOR * len(sizes) * (weights @ weights) / len(columns)
        return value / len(sizes), gradient / len(sizes)

    found = minimize(
        total, np.zeros(len(columns)), jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-12, "gtol": 1e-6}
    )
    return {word: round(float(found.x[n]), 3) for word, n in sorted(columns.items())}


def drawn(
    edits: Sequence[Features], weights: Mapping[str, float], most: int, draw: random.Random, none: float = NONE
) -> list[int]:
    """Places of the edits of one caption that are taken, at most ``most`` of them, none of them twice; ``none=0`` always takes some."""
    left = {
        n: exp(sum(weights.get(word, 0.0) * count for word, count in change.items())) / len(edits)
        for n, change in enumerate(edits)
    }
    taken: list[int] = []
    while left and len(taken) < most:
        at = draw.random() * (sum(left.values()) + none)
        for n, weight in left.items():
            at -= weight
            if at < 0:
                taken.append(n)
                del left[n]
                break
        else:
            break
    return taken
