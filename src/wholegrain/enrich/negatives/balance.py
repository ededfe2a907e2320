"""Drawing false texts so that words and lengths do not give them away.

Of the edits that a collection of captions allows, some are drawn, at most so many a caption. If every word goes in as often as it comes
out, no linear model of words can do better than guess: for pairs (true, false) the gradient of a logistic model at weight zero is the sum of
(words of the true text − words of the false text), and that sum is zero. The draw used here is, among all draws with these sums equal to
zero, the one of greatest entropy:

    p(edit | caption) = exp(w · f(edit)) / (e + sum over the caption's edits of exp(w · f)),     f = words put in − words taken out

The share e is left for drawing none: a word that can only come out (where every caption says "a" and none says "seven") is then left
alone. The weights w are the minimum of a convex function, the sum of the logarithms of the denominators, whose gradient is the expected
sum of f. Added to it is a little of the squared distance of w from the logarithm of how often each word is used: words that the sample
hardly knows stay there, and so come in about as often as they are used. With slack the hold grows with the captions that could change a
word, so that a stated imbalance is paid for more false texts. A last entry of f is the sign of the change of length, so that
"the shorter text is true" is right half of the time.
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

from wholegrain.text.words.text import Edit

NONE = 0.001
"""Weight of drawing nothing, beside a total of 1 for all edits of a caption before they are weighed."""
HOLD = 0.1
"""How firmly a weight is held at its beginning, in edits that go in more than out, for every unit that it moves."""
SLACK = 0.01
"""The share of the captions that could change a word by which it may go in more than out, for every unit that its weight moves."""
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


def fit(
    captions: Iterable[Sequence[Features]], counts: Mapping[str, int] | None = None, slack: float = 0.0
) -> dict[str, float]:
    """Weights of words under which what goes in comes out as often, over these captions.

    Args:
        captions: for each caption the features of every edit that it allows; captions without edits may be left out.
        counts: how often the collection uses each word; weights begin at the logarithm.
        slack: how much imbalance is allowed for more false texts; see :data:`SLACK`.

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
    start_W = np.log1p([float((counts or {}).get(word, 0)) for word in columns])
    size_C = np.array(sizes)
    share_R = np.repeat(1 / size_C, size_C)
    hold_W = HOLD + slack * np.asarray(abs(matrix).T @ share_R).ravel()
    found_W = _minimum(matrix, size_C, start_W, hold_W)
    return {word: round(float(found_W[n]), 3) for word, n in sorted(columns.items())}


def _minimum(matrix: csr_matrix, size_C: np.ndarray, start_W: np.ndarray, hold_W: np.ndarray) -> np.ndarray:
    first_C = np.concatenate([[0], np.cumsum(size_C)[:-1]])
    owner = np.repeat(np.arange(len(size_C)), size_C)
    base = -np.log(size_C.astype(np.float64))[owner]
    transposed = csr_matrix(matrix.T)

    def total(weights_W: np.ndarray) -> tuple[float, np.ndarray]:
        scores = base + matrix @ weights_W
        top_C = np.maximum(np.maximum.reduceat(scores, first_C), np.log(NONE))
        raised = np.exp(scores - top_C[owner])
        sum_C = np.add.reduceat(raised, first_C) + NONE * np.exp(-top_C)
        away_W = weights_W - start_W
        value = (np.log(sum_C) + top_C).sum() + (hold_W * away_W) @ away_W / 2
        return value / len(size_C), (transposed @ (raised / sum_C[owner]) + hold_W * away_W) / len(size_C)

    return minimize(total, start_W, jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-12, "gtol": 1e-6}).x


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
