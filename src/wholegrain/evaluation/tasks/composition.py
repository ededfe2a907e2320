"""Composition: does the model know who does what to whom, or only which words are there?

Three kinds of items, each from a sidecar of the data set:

* :func:`composition`, from ``twins``: two pictures, two captions, each true of exactly one (Winoground's scores, Thrush et al.,
  CVPR 2022). With ``s_ij`` the score of picture i and caption j: *text* ``s00 > s01 and s11 > s10`` (each picture picks its
  caption), *image* ``s00 > s10 and s11 > s01`` (each caption picks its picture), *group* both. Guessing scores 25%, 25% and
  16.7%; a single comparison 50%. A model blind to the pictures scores 0 on text, one blind to the captions 0 on image, both 0 on
  group.
* :func:`hard_positives`: two true wordings of one fact and a false text; right only if both true ones win (as in SugarCrepe++);
  chance 1/3.
* :func:`negatives`: one picture, its caption, one false text (as in SugarCrepe); chance 50%, and what text alone scores is shown
  beside it.

``>`` is strict; ties are shown apart (:mod:`wholegrain.evaluation.statistics.ties`). Kinds whose name begins with ``add`` make the false
text longer and are kept out of the figures over all kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wholegrain.data.record import Negative, Twin
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import Encoded, default_needs, encode_keys, encode_texts, split_keys
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.pair_scores import PairScores
from wholegrain.evaluation.statistics.blind import shorter_wins, unigram_wins
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import all_above, wins

CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6, "picks_caption": 1 / 2, "picks_picture": 1 / 2}


def composition(
    model: EvaluatedModel, dataset: EvaluatedData, split: str = "test", *, known: Encoded | None = None, seed: int = 0, batch: int = 64
) -> TaskResult:
    """Twins of a split, by kind.

    Figures (over all kinds, then ``KIND/…``): ``text_score``, ``image_score``, ``group_score``, each with ``_expected``;
    ``picks_caption`` and ``picks_picture``, the accuracies of the single comparisons (ties one half); ``tie_rate``;
    ``blind_shorter`` and ``blind_unigram``.

    Args:
        known: features that are there already, so that they are not made again.

    Raises:
        NotSupportedError: when the split has no twins.
    """
    twins = [twin for twin in dataset.twins if twin.split == split]
    if not twins:
        raise NotSupportedError(f"The data set has no twins of the split {split!r} (drawn scenes have some: wholegrain scenes OUT).")
    scores = _encoded(model, dataset, [k for t in twins for k in t.keys], [c for t in twins for c in t.captions], batch, known)
    kinds = [twin.kind for twin in twins]
    slots = np.array([[scores.image(key) for key in twin.keys] for twin in twins])
    texts = np.array([[scores.text(caption) for caption in twin.captions] for twin in twins])
    other = stand_ins(slots.ravel().tolist(), seed, slots.tolist())
    s_N22 = scores(slots[:, :, None], texts[:, None, :])
    values = twin_scores(s_N22)
    control = {}
    if other is not None:
        control = twin_scores(scores(slots.ravel()[other].reshape(-1, 2)[:, :, None], texts[:, None, :]))
    blind = _twin_blind(twins, seed)
    extra = {f"s{i}{j}": s_N22[:, i, j].tolist() for i in (0, 1) for j in (0, 1)}
    extra |= {f"{what}{i}": [getattr(t, f"{what}s")[i] for t in twins] for what in ("key", "caption") for i in (0, 1)}
    rows = Rows(
        [twin.item for twin in twins], kinds, [twin.keys[0] for twin in twins], values | blind,
        _with_expected(CHANCE) | dict.fromkeys(blind, 0.5), control, _in_overall(kinds), extra,
    )  # fmt: skip
    protocol = (
        f"{len(twins):,} twins of the split {split!r}, two pictures and two captions each: text, image and group score as in "
        "Winoground with a strict >, picks_… single comparisons with ties as one half, blind_… what the captions alone would "
        f"give{_apart(kinds)}."
    )
    return TaskResult("composition", protocol, tuple(figures(rows, seed=seed)), table(rows))


def twin_scores(s_N22: np.ndarray) -> dict[str, np.ndarray]:
    """All values of twins from ``s[n, i, j]``, the score of picture i and caption j.

    Example:
        >>> values = twin_scores(np.array([[[0.3, 0.2], [0.1, 0.4]], [[0.3, 0.2], [0.35, 0.4]]]))
        >>> values["text_score"].tolist(), values["image_score"].tolist(), values["group_score"].tolist()
        ([1.0, 1.0], [1.0, 0.0], [1.0, 0.0])
    """
    s00, s01, s10, s11 = (s_N22[:, i, j] for i in (0, 1) for j in (0, 1))
    values: dict[str, np.ndarray] = {}
    tied = np.zeros(len(s_N22))
    for name, (first, second) in {"text": ((s00, s01), (s11, s10)), "image": ((s00, s10), (s11, s01))}.items():
        (a, fair_a, tie_a), (b, fair_b, tie_b) = wins(*first), wins(*second)
        values[f"{name}_score"], values[f"{name}_score_expected"] = a * b, fair_a * fair_b
        values["picks_caption" if name == "text" else "picks_picture"] = (fair_a + fair_b) / 2
        tied = np.maximum(tied, np.maximum(tie_a, tie_b))
    group, fair, _ = all_above(np.stack([s00, s11], 1), np.stack([s01, s10], 1))
    order = ["text_score", "text_score_expected", "image_score", "image_score_expected"]
    return {name: values[name] for name in order} | {
        "group_score": group,
        "group_score_expected": fair,
        "picks_caption": values["picks_caption"],
        "picks_picture": values["picks_picture"],
        "tie_rate": tied,
    }


def _twin_blind(twins: Sequence[Twin], seed: int) -> dict[str, np.ndarray]:
    """Mean over the two comparisons of each twin."""
    true = [c for twin in twins for c in twin.captions]
    false = [c for twin in twins for c in twin.captions[::-1]]
    images = [twin.keys for twin in twins for _ in (0, 1)]
    found = {"blind_shorter": shorter_wins(true, false), "blind_unigram": unigram_wins(true, false, images, seed=seed)}
    return {name: values.reshape(-1, 2).mean(1) for name, values in found.items()}


def hard_positives(
    model: EvaluatedModel, dataset: EvaluatedData, split: str = "test", *, known: Encoded | None = None, seed: int = 0, batch: int = 64
) -> TaskResult:
    """Two true wordings against one false text, by kind: ``both_win`` (chance 1/3), ``_expected``, ``tie_rate``,
    ``blind_shorter``.

    Raises:
        NotSupportedError: when the split has none.
    """
    found = [item for item in dataset.hard_positives if item.split == split]
    if not found:
        raise NotSupportedError(
            f"The data set has no hard positives of the split {split!r}; make some (wholegrain enrich "
            f"{getattr(dataset, 'folder', 'DATA')} --hard-positives), or choose another split with --split."
        )
    scores = _encoded(model, dataset, [i.key for i in found], [t for i in found for t in (*i.captions, i.negative)], batch, known)
    texts = np.array([[scores.text(t) for t in (*item.captions, item.negative)] for item in found])
    images = np.array([scores.image(item.key) for item in found])
    kinds = [item.kind for item in found]

    def values(image_N: np.ndarray) -> dict[str, np.ndarray]:
        s_N3 = scores(image_N[:, None], texts)
        strict, fair, tied = all_above(s_N3[:, :2], s_N3[:, 2:])
        return {"both_win": strict, "both_win_expected": fair, "tie_rate": tied}

    lengths_N3 = np.array([[-float(len(t.split())) - len(t) * 1e-4 for t in (*i.captions, i.negative)] for i in found])
    blind = {"blind_shorter": all_above(lengths_N3[:, :2], lengths_N3[:, 2:])[1]}
    chance = {"both_win": 1 / 3, "both_win_expected": 1 / 3, "blind_shorter": 1 / 3}
    s_N3 = scores(images[:, None], texts)
    extra = {name: s_N3[:, j].tolist() for j, name in enumerate(("s_true0", "s_true1", "s_false"))}
    extra |= {
        "true0": [i.captions[0] for i in found],
        "true1": [i.captions[1] for i in found],
        "false": [i.negative for i in found],
    }
    rows = Rows(
        [i.item for i in found], kinds, [i.key for i in found], values(images) | blind, chance,
        _control(values, images, seed), _in_overall(kinds), extra,
    )  # fmt: skip
    protocol = (
        f"{len(found):,} items of the split {split!r}: right only if both true wordings score strictly above the false "
        f"text{_apart(kinds)}."
    )
    return TaskResult("hard_positives", protocol, tuple(figures(rows, seed=seed)), table(rows))


def negatives(
    model: EvaluatedModel, dataset: EvaluatedData, split: str = "test", *, known: Encoded | None = None, seed: int = 0, batch: int = 64
) -> TaskResult:
    """A caption against each false text made from it, by kind: ``accuracy`` (chance 50%), ``accuracy_expected``, ``tie_rate``,
    blind scores.

    Raises:
        NotSupportedError: when the split has no negatives.
    """
    found = split_negatives(dataset, split)
    if not found:
        raise NotSupportedError(
            f"The data set has no negatives of the split {split!r}; make some (wholegrain enrich "
            f"{getattr(dataset, 'folder', 'DATA')} --negatives), or choose another split with --split."
        )
    true, false = [text for text, _ in found], [negative.text for _, negative in found]
    keys, kinds = [negative.key for _, negative in found], [negative.kind for _, negative in found]
    scores = _encoded(model, dataset, keys, true + false, batch, known)
    images = np.array([scores.image(key) for key in keys])
    texts = np.array([[scores.text(a), scores.text(b)] for a, b in zip(true, false, strict=True)])

    def values(image_N: np.ndarray) -> dict[str, np.ndarray]:
        s_N2 = scores(image_N[:, None], texts)
        strict, fair, tied = wins(s_N2[:, 0], s_N2[:, 1])
        return {"accuracy": strict, "accuracy_expected": fair, "tie_rate": tied}

    blind = {
        "blind_shorter": shorter_wins(true, false),
        "blind_unigram": unigram_wins(true, false, [(key,) for key in keys], seed=seed),
    }
    chance = dict.fromkeys(("accuracy", "accuracy_expected", *blind), 0.5)
    s_N2 = scores(images[:, None], texts)
    extra = {"true": true, "false": false, "s_true": s_N2[:, 0].tolist(), "s_false": s_N2[:, 1].tolist()}
    control = _control(values, images, seed)
    rows = Rows(_negative_ids(found), kinds, keys, values(images) | blind, chance, control, _in_overall(kinds), extra)
    protocol = (
        f"{len(found):,} pairs of the split {split!r}, a true caption and a false text of one picture: right if the true one "
        f"scores strictly higher; blind_… is what the texts alone would give{_apart(kinds)}."
    )
    return TaskResult("negatives", protocol, tuple(figures(rows, seed=seed)), table(rows))


def split_negatives(dataset: EvaluatedData, split: str) -> list[tuple[str, Negative]]:
    """(true text, :class:`~wholegrain.data.record.Negative`) of all captions of a split, in the order of its keys."""
    if not dataset.negatives:
        return []
    found = []
    for key in split_keys(dataset, split):
        for caption in dataset.record(key).captions:
            found += [(caption.text, negative) for negative in dataset.negatives.get((key, caption.id), ())]
    return found


def _negative_ids(found: list[tuple[str, Negative]]) -> list[str]:
    seen: dict[str, int] = {}
    out = []
    for _, negative in found:
        name = f"{negative.key}:{negative.caption}:{negative.kind}"
        seen[name] = seen.get(name, -1) + 1
        out.append(f"{name}:{seen[name]}")
    return out


def _control(values: Callable[[np.ndarray], dict[str, np.ndarray]], image_N: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """``values`` of other pictures; empty where there is no other."""
    other_N = stand_ins(image_N.tolist(), seed)
    return {} if other_N is None else values(image_N[other_N])


def _in_overall(kinds: Sequence[str]) -> np.ndarray:
    return np.array([not kind.startswith("add") for kind in kinds])


def _apart(kinds: Sequence[str]) -> str:
    return "; add… kinds count only in their own rows" if not _in_overall(kinds).all() else ""


def _with_expected(chance: dict[str, float]) -> dict[str, float]:
    return chance | {f"{name}_expected": value for name, value in chance.items() if name.endswith("_score")}


def _encoded(
    model: EvaluatedModel, dataset: EvaluatedData, keys: Sequence[str], texts: Sequence[str], batch: int, known: Encoded | None
) -> PairScores:
    """Everything encoded once."""
    keys, texts, needs = list(dict.fromkeys(keys)), list(dict.fromkeys(texts)), default_needs(model)
    image = encode_keys(model, dataset, keys, needs, batch=batch, known=known)
    return PairScores(keys, image, texts, encode_texts(model, texts, needs, batch=4 * batch, known=known), model)
