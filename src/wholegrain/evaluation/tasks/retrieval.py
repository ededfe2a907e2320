"""Retrieval: find the picture of a caption among all pictures, and a caption of a picture among all captions.

Any number of captions per image, and any number of images that a caption is true of:

* caption -> image (``image_retrieval_…``): one query per caption; right if any image that the caption is true of is among the
  first k;
* image -> caption (``text_retrieval_…``): one query per image; right if any of its true captions is among the first k (as
  CLIP_benchmark counts; this is not the recall of all captions).

A rank is that of the best true candidate among the *false* ones, so a second true caption never pushes the first one down. With
one image per caption and one owner these are the field's usual numbers. Truth beyond the owner is known from identical texts and
from the data set's ``truths``. Ties: see :mod:`wholegrain.evaluation.statistics.ties`.

Figures per direction: ``recall@1/5/10`` strict and ``…_expected``, ``tie_rate``, ``mean_rank``, ``median_rank``. The chance level
is the closed form ``1 - C(N - P, k) / C(N, k)`` for P true ones among N candidates, averaged over the queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic, weighted_median
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import first_true_within
from wholegrain.evaluation.tasks.shortlist import Shortlist
from wholegrain.suggest import closest

PLACES = (1, 5, 10)


@dataclass(frozen=True)
class Ranks:
    """How the best true candidate of each of Q queries stands among its candidates; int64 ``[Q]`` arrays.

    Attributes:
        better: false candidates with a greater score.
        tied: false candidates with the same score.
        true_tied: true candidates with that score, at least 1; 0 marks a query that has no true candidate at all.
        positives: true candidates.
        candidates: all of them, true and false.
    """

    better: np.ndarray
    tied: np.ndarray
    true_tied: np.ndarray
    positives: np.ndarray
    candidates: int

    @property
    def answerable(self) -> np.ndarray:
        """bool ``[Q]``: the query has a true candidate."""
        return self.positives > 0

    def strict(self, k: int) -> np.ndarray:
        """0 or 1: among the first k even if every tie is lost."""
        return (self.better + self.tied < k).astype(np.float64)

    def expected(self, k: int) -> np.ndarray:
        """The chance to be among the first k if ties are broken at random."""
        return first_true_within(k, self.better, self.tied, self.true_tied)

    def by_chance(self, k: int) -> np.ndarray:
        """The same for a random ranking."""
        return first_true_within(k, np.zeros_like(self.better), self.candidates - self.positives, self.positives)

    @property
    def rank(self) -> np.ndarray:
        """Expected rank, 1 is best: t tied false ones leave t / (m + 1) in front of the first of m true ones."""
        return 1 + self.better + self.tied / (np.maximum(self.true_tied, 1) + 1)

    @property
    def chance_rank(self) -> np.ndarray:
        """The expected rank in a random ranking."""
        return 1 + (self.candidates - self.positives) / (self.positives + 1)


def true_pairs(
    encoded: Encoded, truths: Mapping[str, Sequence[str]] | None = None, *, owner_only: bool = False
) -> tuple[Tensor, Tensor]:
    """Which text is true of which image: int64 ``image_M, text_M``, sorted by image, each pair once.

    A text is true of its owner, of every image that has the same text as a caption, and of the keys that ``truths`` gives for its
    id; keys that are not among ``encoded.keys`` are passed over. ``owner_only`` counts the owner alone.
    """
    place = {key: b for b, key in enumerate(encoded.keys)}
    owners = encoded.owner_N.tolist()
    if owner_only:
        pairs = set(zip(owners, range(len(owners)), strict=True))
    else:
        true_of: dict[str, set[int]] = {}
        for owner, name in zip(owners, encoded.caption_ids, strict=True):
            true_of.setdefault(name, set()).add(owner)
        for name, images in true_of.items():
            images.update(place[key] for key in (truths or {}).get(name, ()) if key in place)
        pairs = {(image, n) for n, name in enumerate(encoded.caption_ids) for image in true_of[name]}
    both = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def count_ranks(scorer: Scorer, image_M: Tensor, text_M: Tensor) -> tuple[Ranks, Ranks]:
    """Ranks of both directions in one pass over the score matrix, which is never held whole.

    Args:
        scorer: scores of B images with N texts.
        image_M, text_M: the true pairs, sorted by image (:func:`true_pairs`).

    Returns:
        image -> caption ranks (Q = B) and caption -> image ranks (Q = N).
    """
    images, texts = scorer.shape
    true_M = scorer.pairs(image_M, text_M)
    tolerance = scorer.tolerance(true_M)
    ends = _Ends(image_M, true_M, images, tolerance), _Ends(text_M, true_M, texts, tolerance)
    bounds = torch.searchsorted(image_M, torch.arange(images + 1))
    for start, scores in scorer.blocks():
        stop = start + len(scores)
        here = slice(int(bounds[start]), int(bounds[stop]))
        scores[image_M[here] - start, text_M[here]] = -torch.inf  # only false candidates are counted
        ends[0].count(slice(start, stop), scores.numpy(), 1)
        ends[1].count(slice(None), scores.numpy(), 0)
    return ends[0].ranks(texts), ends[1].ranks(images)


class _Ends:
    """Running counts of one direction. They are made by numpy, whose counts of bools are many times faster than torch's on a
    CPU."""

    def __init__(self, query_M: Tensor, true_M: Tensor, queries: int, tolerance: float) -> None:
        best = torch.full((queries,), -torch.inf).scatter_reduce(0, query_M, true_M, "amax")
        near_M = (true_M >= best[query_M] - tolerance).long()
        zero = torch.zeros(queries, dtype=torch.int64)
        self.true_tied = zero.scatter_add(0, query_M, near_M).numpy()
        self.positives = zero.scatter_add(0, query_M, torch.ones_like(near_M)).numpy()
        best[torch.from_numpy(self.positives) == 0] = torch.inf  # nothing is counted for a query without a true candidate
        self.above, self.least = (best + tolerance).numpy(), (best - tolerance).numpy()
        self.better, self.at_least = np.zeros(queries, np.int64), np.zeros(queries, np.int64)

    def count(self, queries: slice, scores: np.ndarray, candidates: int) -> None:
        """Adds a block of scores, whose axis ``candidates`` runs over the candidates, to the counts of ``queries``."""
        above, least = (np.expand_dims(x[queries], candidates) for x in (self.above, self.least))
        self.better[queries] += (scores > above).sum(candidates, dtype=np.int32)
        self.at_least[queries] += (scores >= least).sum(candidates, dtype=np.int32)

    def ranks(self, candidates: int) -> Ranks:
        return Ranks(self.better, self.at_least - self.better, self.true_tied, self.positives, candidates)


@dataclass(frozen=True)
class RetrievalOptions:
    """Which captions and images compete, and what counts as right.

    Attributes:
        roles: only captions in these roles; all images stay candidates.
        by_role: beside the figures over all captions, figures over the captions of each role alone (if there are several roles).
        one_caption: only the first caption of each image (of each role), the diagonal protocol of the Holistic CLIP tables.
        owner_only: a caption is true of its owner alone, as most published numbers count.
        subset: that many images, drawn by ``seed``, with their captions; ``None`` for all.
        shortlist: of a model that scores pairs jointly: only the first so many candidates by cosine are scored, and lead
            (:mod:`wholegrain.evaluation.tasks.shortlist`); 0 scores every pair.
    """

    roles: Sequence[str] | None = None
    by_role: bool = True
    one_caption: bool = False
    owner_only: bool = False
    subset: int | None = None
    shortlist: int = 0


DIAGONAL = RetrievalOptions(by_role=False, one_caption=True, owner_only=True)
"""The protocol of Holistic CLIP's released code (Wang et al., CVPR 2025), ``retrieval_diagonal`` by name: one caption an image, so that N images and
N captions make a square matrix and the diagonal alone is right. Here the caption is the first of each image; which one their lists of COCO and
Flickr30k hold is not published. Finding images is as hard as among all captions, a query has the same N images. Finding captions is not: one
true caption among N stands in the place of several among all, so the figures do not compare with those of the ordinary protocol."""


def retrieval(
    encoded: Encoded,
    options: RetrievalOptions = RetrievalOptions(),
    *,
    truths: Mapping[str, Sequence[str]] | None = None,
    model: object = None,
    seed: int = 0,
) -> TaskResult:
    """Retrieval in both directions over the images and captions of ``encoded``.

    Args:
        truths: caption id -> further keys that the caption is true of (``dataset.truths``).
        model: only for joint scorers, see :func:`wholegrain.evaluation.scores.similarity.similarity`.
        seed: of a subset, the shuffled control and resamples.

    Raises:
        UserError: when no caption is left, or a shortlist is asked for where nothing would re-rank it.
    """
    _check_shortlist(options.shortlist, model)
    subset = options.subset
    if subset is not None and subset < len(encoded.keys):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(encoded.keys))[:subset])
        encoded = encoded.only_images(torch.from_numpy(chosen))
    texts, roles = _chosen_texts(encoded, options.roles)
    parts = [("", texts)]
    if options.by_role and len(roles) > 1:
        parts += [(role, [n for n in texts if encoded.role_N[n] == role]) for role in roles]
    other = stand_ins(encoded.keys, seed)
    order = None if other is None else torch.from_numpy(other)
    rows, medians = [], []
    for group, places in parts:
        part = encoded.only_texts(torch.tensor(_first_of_each(encoded, places) if options.one_caption else places))
        pairs = true_pairs(part, truths, owner_only=options.owner_only)
        found, middle = _one_table(part, group, pairs, model, order, seed, options.shortlist)
        rows += found
        medians += middle
    rows = join(rows)
    rows.overall = np.array([not group for group in rows.group])
    units = {name: "rank" for name in rows.values if name.endswith("_rank")}
    result = _with_medians(figures(rows, units=units, seed=seed), medians)
    return TaskResult("retrieval", _protocol(encoded, len(texts), roles, options), tuple(result), table(rows))


def _check_shortlist(shortlist: int, model: object) -> None:
    if shortlist < 0 or (shortlist and getattr(model, "score", None) is None):
        raise UserError(
            f"shortlist = {shortlist} needs 1 or more, and a model that scores pairs jointly (heads filip, pacl, flair, llip, fusion and grain, "
            "or --grain); leave it out."
        )


def _chosen_texts(encoded: Encoded, roles: Sequence[str] | None) -> tuple[list[int], list[str]]:
    """The captions in these roles (all for ``None``), and which roles they have."""
    present = tuple(dict.fromkeys(encoded.role_N))
    wanted = present if roles is None else tuple(roles)
    texts = [n for n, role in enumerate(encoded.role_N) if role in wanted]
    if not texts:
        raise UserError(f"No caption has the role {' or '.join(wanted) or '(none)'}; {closest(''.join(wanted[:1]), present)}")
    return texts, [role for role in present if role in wanted]


def _first_of_each(encoded: Encoded, places: Sequence[int]) -> list[int]:
    first: dict[int, int] = {}
    for n in places:
        first.setdefault(int(encoded.owner_N[n]), n)
    return sorted(first.values())


def _protocol(encoded: Encoded, texts: int, roles: Sequence[str], options: RetrievalOptions) -> str:
    shortlist = options.shortlist
    captions = "the first caption of each image" if options.one_caption else f"all {texts:,} captions"
    truth = "its own image" if options.owner_only else "any image that it is known to be true of"
    cut = f"; {encoded.cut:,} texts were cut at the model's context length" if encoded.cut else ""
    listed = f"; each query's first {shortlist:,} candidates by cosine are ordered by the joint score" if shortlist else ""
    return (
        f"{len(encoded.keys):,} images and {captions} (roles: {', '.join(roles)}); a caption is right with {truth}, an image "
        f"with any of its true captions among the first k; ties are wrong, shown apart{listed}{cut}."
    )


def _one_table(
    part: Encoded, group: str, pairs: tuple[Tensor, Tensor], model: object, order: Tensor | None, seed: int, shortlist: int = 0
) -> tuple[list[Rows], list[Figure]]:
    both, control = _ranks(part, pairs, model, shortlist), (None, None)
    if order is not None:
        control = _ranks(replace(part, image=part.image.select(order)), pairs, model, shortlist)
    owner_key = [part.keys[b] for b in part.owner_N.tolist()]
    items = caption_items(part)
    named = (("text_retrieval", list(part.keys), list(part.keys)), ("image_retrieval", items, owner_key))
    rows, medians = [], []
    for (name, item, cluster), ranks, shuffled in zip(named, both, control, strict=True):
        places = np.flatnonzero(ranks.answerable)
        clusters = [cluster[q] for q in places]
        ranks, shuffled = _pick(ranks, places), None if shuffled is None else _pick(shuffled, places)
        rows.append(_rows(name, [item[q] for q in places], group, clusters, ranks, shuffled))
        medians.append(_median(f"{group}/{name}" if group else name, ranks, shuffled, clusters, seed))
    return rows, medians


def _ranks(part: Encoded, pairs: tuple[Tensor, Tensor], model: object, shortlist: int) -> tuple[Ranks, Ranks]:
    if not shortlist:
        return count_ranks(Scorer(part.image, part.text, model), *pairs)
    # each direction has its own lists, and so its own scores
    images, texts = (Shortlist(part.image, part.text, model, shortlist, query) for query in ("image", "text"))
    return count_ranks(images, *pairs)[0], count_ranks(texts, *pairs)[1]


def caption_items(encoded: Encoded) -> list[str]:
    """A stable id ``[N]`` of each caption: its image's key and its own id, numbered where an image has the same text twice."""
    seen: dict[str, int] = {}
    items = []
    for owner, name in zip(encoded.owner_N.tolist(), encoded.caption_ids, strict=True):
        item = f"{encoded.keys[owner]}:{name}"
        count = seen[item] = seen.get(item, -1) + 1
        items.append(f"{item}:{count}" if count else item)
    return items


def _pick(ranks: Ranks, places: np.ndarray) -> Ranks:
    return Ranks(ranks.better[places], ranks.tied[places], ranks.true_tied[places], ranks.positives[places], ranks.candidates)


def _rows(name: str, item: list[str], group: str, cluster: list[str], ranks: Ranks, shuffled: Ranks | None) -> Rows:
    values, control = _values(name, ranks), {} if shuffled is None else _values(name, shuffled)
    chance: dict[str, np.ndarray | float] = {f"{name}_mean_rank": ranks.chance_rank}
    for k in PLACES:
        chance[f"{name}_recall@{k}"] = chance[f"{name}_recall@{k}_expected"] = ranks.by_chance(k)
    extra = {"positives": ranks.positives.tolist(), "candidates": [ranks.candidates] * len(item)}
    return Rows(item, [group] * len(item), cluster, values, chance, control, extra=extra)


def _values(name: str, ranks: Ranks) -> dict[str, np.ndarray]:
    values = {f"{name}_recall@{k}": ranks.strict(k) for k in PLACES}
    values |= {f"{name}_recall@{k}_expected": ranks.expected(k) for k in PLACES}
    return values | {f"{name}_tie_rate": (ranks.tied > 0).astype(np.float64), f"{name}_mean_rank": ranks.rank}


def _median(name: str, ranks: Ranks, shuffled: Ranks | None, cluster: list[str], seed: int) -> Figure:
    low, high = bootstrap_statistic(weighted_median(ranks.rank), cluster, seed=seed)
    chance = Ranks(
        np.zeros_like(ranks.better), ranks.candidates - ranks.positives, ranks.positives, ranks.positives, ranks.candidates
    )
    value, guess = median_rank(ranks), median_rank(chance)
    control = None if shuffled is None else median_rank(shuffled)
    # the interval comes from expected ranks; where ties abound the exact median may lie beside it
    return Figure(f"{name}_median_rank", value, min(low, value), max(high, value), len(ranks.better), guess, control, "rank")


def median_rank(ranks: Ranks) -> float:
    """The smallest k that at least half of the queries reach, ties broken at random (exact, by bisection)."""
    low, high = 1, ranks.candidates
    while low < high:
        middle = (low + high) // 2
        if ranks.expected(middle).mean() >= 0.5:
            high = middle
        else:
            low = middle + 1
    return float(low)


def _with_medians(found: list[Figure], medians: list[Figure]) -> list[Figure]:
    """Each median behind the mean of the same name."""
    by_name = {median.name.replace("_median_", "_mean_"): median for median in medians}
    return [f for figure in found for f in ((figure, by_name[figure.name]) if figure.name in by_name else (figure,))]
