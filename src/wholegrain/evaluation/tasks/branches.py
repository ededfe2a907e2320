"""Branches and roles: which branch of a multi-branch image tower answers to which kind of description (Holistic CLIP, Wang et
al., CVPR 2025)?

Caption -> image retrieval of each role's captions, all images of the split as candidates, through branch h alone, through the
mean of the branches (how the model scores), or, for a single-vector model, through its one vector, so that both kinds of model
stand in one table.

``specialisation`` of a role: recall@1 of its best branch minus the mean over the branches. The best of several noisy numbers is
too good, so the best branch is chosen on one half of the images and measured on the other, and the other way round: equal
branches score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.scores.branch_inference import BranchInference
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.retrieval import Ranks, caption_items, count_ranks, true_pairs
from wholegrain.features import ImageFeatures


def branches(
    encoded: Encoded, *, truths: Mapping[str, Sequence[str]] | None = None, model: object = None, seed: int = 0
) -> TaskResult:
    """The branch x role matrix: ``ROLE/branch_h_recall@1``, ``…_mean_rank``, the same for ``mean``, and ``ROLE/specialisation``.

    A single-vector model gets the row ``single`` alone. Recall is the expected one under random tie-breaking.
    """
    model = model.model if isinstance(model, BranchInference) else model  # the table has the mean, however the model is scored
    order = stand_ins(encoded.keys, seed)
    roles = tuple(dict.fromkeys(encoded.role_N))
    parts = [_role_rows(encoded, role, truths, model, order, seed) for role in roles]
    rows = join(parts)
    rows.overall = np.zeros(len(rows), dtype=bool)
    units = {name: "rank" if name.endswith("_mean_rank") else "share" for name in rows.values} | {"specialisation": "points"}
    count = Scorer(encoded.image, encoded.text).branches
    through = f"each of {count} branches and their mean" if count > 1 else "the model's one vector"
    protocol = (
        f"Captions of each role to {len(encoded.keys):,} images through {through}; specialisation is the best branch, chosen on "
        "the other half of the images, minus the mean over the branches."
    )
    return TaskResult("branches", protocol, tuple(figures(rows, units=units, seed=seed)), table(rows))


def _role_rows(encoded: Encoded, role: str, truths, model: object, order: np.ndarray | None, seed: int) -> Rows:
    part = encoded.only_texts(torch.tensor([n for n, name in enumerate(encoded.role_N) if name == role]))
    pairs = true_pairs(part, truths)
    values: dict[str, np.ndarray] = {}
    chance: dict[str, np.ndarray | float] = {}
    shuffled: dict[str, np.ndarray] = {}
    for name, image in _views(part.image).items():
        # a joint scorer reads the whole model; a branch alone is always read by its cosine
        scorer = Scorer(image, part.text, model if name in ("mean", "single") else None)
        ranks = count_ranks(scorer, *pairs)[1]
        values |= _read(name, ranks)
        if order is not None:
            shuffled |= _read(name, count_ranks(scorer.permuted(torch.from_numpy(order)), *pairs)[1])
        chance[f"{name}_recall@1"], chance[f"{name}_mean_rank"] = ranks.by_chance(1), ranks.chance_rank
    owner_N = part.owner_N.numpy()
    single = [name for name in values if name.startswith("branch_") and name.endswith("recall@1")]
    if single:
        half_B = np.random.default_rng([seed, 4]).permutation(len(part.keys)) % 2
        for columns in filter(None, (values, shuffled)):
            columns["specialisation"] = specialisation(np.stack([columns[name] for name in single], 1), half_B[owner_N])
        chance["specialisation"] = 0.0
    keys = [part.keys[b] for b in owner_N]
    items = caption_items(part)
    return Rows(items, [role] * len(items), keys, values, chance, shuffled)


def _read(name: str, ranks: Ranks) -> dict[str, np.ndarray]:
    return {f"{name}_recall@1": ranks.expected(1), f"{name}_mean_rank": ranks.rank}


def _views(image: ImageFeatures) -> dict[str, ImageFeatures]:
    if image.branches_BHD is None:
        return {"single": image}
    count = image.branches_BHD.shape[1]
    alone = {f"branch_{h}": ImageFeatures(image.branches_BHD[:, h]) for h in range(count)} if count > 1 else {}
    return alone | {"mean": replace(image, patches_BPD=None, grid=None)}


def specialisation(hits_NH: np.ndarray, half_N: np.ndarray) -> np.ndarray:
    """``[N]``: the hit of the branch that is best on the *other* half, minus the mean over branches; its mean is the figure.

    Branches that are equally good on the other half share the choice.

    Example:
        >>> hits = np.array([[1.0, 0.0], [1.0, 0.0]])
        >>> specialisation(hits, np.array([0, 1])).tolist()
        [0.5, 0.5]
    """
    out_N = -hits_NH.mean(1)
    for half in (0, 1):
        here, other = half_N == half, half_N != half
        score_H = hits_NH[other].mean(0) if other.any() else np.zeros(hits_NH.shape[1])
        best_H = score_H >= score_H.max() - 1e-12
        out_N[here] += hits_NH[here][:, best_H].mean(1)
    return out_N
