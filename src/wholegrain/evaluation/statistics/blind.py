"""What text alone scores on paired items: the control without which a composition score means little.

Many published tests can be answered without the picture (SugarCrepe's ADD subsets: 99% by "the shorter caption is true"). Two
controls:

* *shorter wins*: fewer words, then fewer characters; equal lengths are a tie, worth one half;
* *unigram*: a log-odds weight per word, learned from the true and false texts of *other* images (cross-validated, no image on
  both sides), so it finds any word that gives false texts away.

On twins, where each caption is true of one picture and false of the other, both are 50% by construction.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from wholegrain.evaluation.statistics.ties import wins

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def words(text: str) -> list[str]:
    """Lower-case words.

    Example:
        >>> words("A dog's cup, left.")
        ['a', "dog's", 'cup', 'left']
    """
    return _WORD.findall(text.lower())


def shorter_wins(true: Sequence[str], false: Sequence[str]) -> np.ndarray:
    """float64 ``[N]``: 1 where the true text is the shorter one, 1/2 where they are equally long, else 0."""
    lengths = np.array([[-length(a), -length(b)] for a, b in zip(true, false, strict=True)], dtype=np.float64).reshape(-1, 2)
    return wins(lengths[:, 0], lengths[:, 1])[1]


def length(text: str) -> int:
    """Words, then characters, as one number that orders texts by both."""
    return len(text.split()) * 1_000_000 + len(text)


def unigram_wins(
    true: Sequence[str], false: Sequence[str], images: Sequence[Sequence[str]], *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """float64 ``[N]``: 1 where the true text has the greater sum of word log-odds, 1/2 for equal sums, else 0.

    Args:
        true, false: ``[N]`` texts.
        images: ``[N]`` the keys of the images behind each item; items that share one, directly or through others, are in one
            fold.
        folds: parts of the cross-validation. A word's weight is ``log((t + 1) / (f + 1))`` with t and f its counts in the
            true and in the false texts of the other folds.
    """
    scores = unigram_scores([(a, b) for a, b in zip(true, false, strict=True)], [1] * len(true), images, folds=folds, seed=seed)
    both = np.array(scores, dtype=np.float64).reshape(-1, 2)
    return wins(both[:, 0], both[:, 1])[1]


def unigram_scores(
    texts: Sequence[Sequence[str]], true: Sequence[int], images: Sequence[Sequence[str]], *, folds: int = 5, seed: int = 0
) -> list[list[float]]:
    """The sum of word log-odds of each text of each item, learned from the other folds; see :func:`unigram_wins`.

    Args:
        texts: ``[N]`` the texts of each item, the true ones first.
        true: ``[N]`` how many of them are true. Where there are more false texts than true ones, their words count for less in
            proportion, so that a word that stands as often in either kind weighs nothing.
    """
    fold_N = image_folds(images, folds, seed)
    counts = [[Counter(words(text)) for text in group] for group in texts]
    false_per_true = sum(len(group) - t for group, t in zip(texts, true, strict=True)) / max(sum(true), 1)
    totals: tuple[Counter, Counter] = (Counter(), Counter())
    parts: dict[int, tuple[Counter, Counter]] = defaultdict(lambda: (Counter(), Counter()))
    for fold, group, t in zip(fold_N.tolist(), counts, true, strict=True):
        for place, count in enumerate(group):
            for table in (totals, parts[fold]):
                table[place >= t].update(count)
    scores = []
    for fold, group in zip(fold_N.tolist(), counts, strict=True):
        here, sums = parts[fold], []
        for count in group:
            seen = [(times, [totals[side][word] - here[side][word] for side in (0, 1)]) for word, times in count.items()]
            sums.append(sum(times * np.log((t + 1) / (f / max(false_per_true, 1e-9) + 1)) for times, (t, f) in seen))
        scores.append([float(total) for total in sums])
    return scores


def image_folds(images: Sequence[Sequence[str]], folds: int, seed: int = 0) -> np.ndarray:
    """int64 ``[N]`` fold of each item; connected groups of images stay together.

    Example:
        >>> a, b, c = image_folds([("x", "y"), ("y", "z"), ("q",)], 2)
        >>> bool(a == b)
        True
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for keys in images:
        for key in keys[1:]:
            parent[root(key)] = root(keys[0])
    names = [root(keys[0]) for keys in images]
    groups = sorted(set(names))
    order = np.random.default_rng(seed).permutation(len(groups)) % folds
    place = dict(zip(groups, order.tolist(), strict=True))
    return np.array([place[name] for name in names], dtype=np.int64)
