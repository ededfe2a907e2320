"""One scorer for all pair-wise benchmarks: items in, a result with every control out.

Figures over all items (unless the benchmark says that this has no meaning), then the averages that papers take, then group by group:

* ``accuracy``, or ``text_score``, ``image_score`` and ``group_score``: strict, a tie is wrong; ``…_expected``: ties broken by a fair coin;
  ``tie_rate``;
* ``half_accuracy``, with as many true as false texts, two or more: the share of all texts that are ranked in their half, the true ones first
  (BLA's);
* ``blind_shorter`` and ``blind_unigram``: what the texts alone would give (:mod:`wholegrain.evaluation.statistics.blind`). With several true or
  false texts the same is asked of lengths and word weights as of the model's scores. An item that compares pictures of one text has none;
* ``NAME_accuracy``: an average over parts, each part's mean weighing as :func:`~wholegrain.evaluation.benchmarks.items.leaves` says.

The shuffled-images control gives every picture's place to one other picture of the benchmark, never to one that an item sets beside it or
that is cut from the same file (:mod:`wholegrain.evaluation.statistics.stand_ins`). Intervals draw picture files (all items of
a file at once) with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb, factorial

import numpy as np
import torch

from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Tree, check, leaves
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import Progress
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.scores.pair_scores import PairScores
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.evaluation.statistics.blind import length, unigram_scores
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import all_above, in_front, in_order
from wholegrain.evaluation.tasks.composition import twin_scores

FEW = 100
"""Below so many picture files a result says that it is too small to rank methods."""
Values = dict[str, np.ndarray]


def score(
    benchmark: Benchmark, model: EvaluatedModel, store: FeatureStore, *, seed: int = 0, progress: Progress | None = None
) -> TaskResult:
    """Scores a benchmark.

    Args:
        model: only looked at for a joint ``score``.
        store: of the same model.

    Raises:
        UserError: when the items cannot be compared (:func:`~wholegrain.evaluation.benchmarks.items.check`) or a picture not be read.
    """
    check(benchmark.items, benchmark.name)
    pictures = Pictures(picture for item in benchmark.items for picture in item.pictures)
    texts = list(dict.fromkeys(text for item in benchmark.items for text in (*item.true, *item.false)))
    text, cut = store.texts(texts, progress)
    keys = list(dict.fromkeys(pictures.key.values()))
    scores = PairScores(keys, store.images(pictures, keys, progress), texts, text, model) if keys else None
    places = {name: n for n, name in enumerate(texts)}
    together = [[pictures.key[p] for p in item.pictures] for item in benchmark.items if len(item.pictures) > 1]
    other = stand_ins(keys, seed, (*together, *pictures.of_one_file()))
    parts = []
    kinds = list(dict.fromkeys(_kind(item) for item in benchmark.items))
    for kind in kinds:
        items = [item for item in benchmark.items if _kind(item) == kind]
        if scores is None or items[0].shape[0] == 0:
            parts.append(_text_rows(items, unit(text.pooled_ND), places))
        else:
            parts.append(_rows(items, scores, pictures, other))
    rows = join(parts)
    rows.overall = np.full(len(rows), benchmark.micro)
    found = figures(rows, seed=seed)
    named = [item for kind in kinds for item in benchmark.items if _kind(item) == kind]
    part_N = np.array([item.part or item.group for item in named], dtype=object)
    averages = [f for name, tree in benchmark.averages.items() for f in average_figures(rows, part_N, name, tree, seed)]
    first_group = next((n for n, figure in enumerate(found) if "/" in figure.name), len(found))
    found[first_group:first_group] = averages
    rows.extra = {**rows.extra, "part": part_N.tolist()}
    return TaskResult(
        benchmark.name, _protocol(benchmark, len(set(pictures.file.values())), sum(cut), len(texts)), tuple(found), table(rows)
    )


def _kind(item: Item) -> tuple[tuple[int, int, int], bool]:
    """Items of one kind are scored together."""
    return item.shape, item.ordered


def _rows(items: Sequence[Item], scores: PairScores, pictures: Pictures, other: np.ndarray | None) -> Rows:
    """Rows of items of one shape that look at pictures."""
    image_NI = np.array([[scores.image(pictures.key[p]) for p in item.pictures] for item in items])
    text_NT = np.array([[scores.text(text) for text in (*item.true, *item.false)] for item in items])
    measure, chance = _in_order(items[0].shape) if items[0].ordered else _measure(items[0].shape)
    s = scores(image_NI[:, :, None], text_NT[:, None, :])
    values = measure(s)
    control = {} if other is None else measure(scores(other[image_NI][:, :, None], text_NT[:, None, :]))
    files = [tuple(pictures.file[p] for p in item.pictures) for item in items]
    blind = _blind(items, files)
    levels: dict[str, np.ndarray | float] = {**chance, **{name: next(iter(chance.values())) if items[0].shape[0] == 1 else 0.5 for name in blind}}
    _together(items, values, control, levels)
    extra = {f"s{i}{t}": s[:, i, t].tolist() for i in range(s.shape[1]) for t in range(s.shape[2])}
    return _finished(items, [f[0] for f in files], {**values, **blind}, levels, control, extra)


def _text_rows(items: Sequence[Item], unit_ND: torch.Tensor, places: Mapping[str, int]) -> Rows:
    """Two true texts are nearer to each other than either is to the false one; no picture, so nothing to shuffle."""
    place_N3 = torch.tensor([[places[text] for text in (*item.true, *item.false)] for item in items])
    a, b, c = (unit_ND[place_N3[:, n]] for n in range(3))
    near, far = (a * b).sum(1, keepdim=True), torch.stack([(a * c).sum(1), (b * c).sum(1)], 1)
    strict, fair, tied = all_above(near.double().numpy(), far.double().numpy())
    values = {"accuracy": strict, "accuracy_expected": fair, "tie_rate": tied}
    chance = {"accuracy": 1 / 3, "accuracy_expected": 1 / 3}
    return _finished(items, [item.true[0] for item in items], values, chance, {}, {})


def _finished(items: Sequence[Item], cluster: list[str], values: Values, chance, control: Values, extra: Mapping[str, Iterable[object]]) -> Rows:
    kept = {"true": [list(item.true) for item in items], "false": [list(item.false) for item in items]}
    kept["pictures"] = [[str(p.path) for p in item.pictures] for item in items]
    return Rows([i.id for i in items], [i.group for i in items], cluster, values, chance, control, extra={**kept, **extra})


def _measure(shape: tuple[int, int, int]) -> tuple[Callable[[np.ndarray], Values], dict[str, float]]:
    """What to make of scores ``[N, pictures, texts]``, and the chance levels."""
    pictures, true, false = shape
    if (pictures, true) == (2, 2):
        chance = {
            f"{name}_score{end}": c
            for name, c in (("text", 1 / 4), ("image", 1 / 4), ("group", 1 / 6))
            for end in ("", "_expected")
        }
        return twin_scores, chance | {"picks_caption": 0.5, "picks_picture": 0.5}
    level = 1 / comb(true + false, true) if pictures == 1 else 1 / pictures

    halves = pictures == 1 and true == false > 1

    def measure(s: np.ndarray) -> Values:
        s = s[:, 0] if pictures == 1 else s[:, :, 0]
        first = true if pictures == 1 else 1
        strict, fair, tied = all_above(s[:, :first], s[:, first:])
        half = dict(zip(("half_accuracy", "half_accuracy_expected"), in_front(s[:, :first], s[:, first:]), strict=True)) if halves else {}
        return {"accuracy": strict, "accuracy_expected": fair, "tie_rate": tied, **half}

    half = {"half_accuracy": 0.5, "half_accuracy_expected": 0.5} if halves else {}
    return measure, {"accuracy": level, "accuracy_expected": level, **half}


def _in_order(shape: tuple[int, int, int]) -> tuple[Callable[[np.ndarray], Values], dict[str, float]]:
    """The same for items whose texts must stand in falling order."""

    def measure(s: np.ndarray) -> Values:
        strict, fair, tied = in_order(s[:, 0])
        return {"accuracy": strict, "accuracy_expected": fair, "tie_rate": tied}

    level = 1 / factorial(shape[1] + shape[2])
    return measure, {"accuracy": level, "accuracy_expected": level}


def _blind(items: Sequence[Item], files: Sequence[tuple[str, ...]]) -> Values:
    """What lengths and words alone score; nothing where all candidates have the same text."""
    pictures, true, _ = items[0].shape
    if pictures > 1 and true == 1:
        return {}
    if pictures == 2:  # each caption against the other: the shares of both are one half by construction, which is the point
        flat = [Item(i.id, i.group, i.pictures[:1], (t,), (f,)) for i in items for t, f in (i.true, i.true[::-1])]
        pairs = _blind(flat, [f for f in files for _ in (0, 1)])
        return {name: values.reshape(-1, 2).mean(1) for name, values in pairs.items()}
    texts = [(*item.true, *item.false) for item in items]
    shorter = np.array([[-float(length(text)) for text in group] for group in texts])
    words = np.array(unigram_scores(texts, [true] * len(items), files))
    fair = (lambda s: in_order(s)[1]) if items[0].ordered else (lambda s: all_above(s[:, :true], s[:, true:])[1])
    return {"blind_shorter": fair(shorter), "blind_unigram": fair(words)}


def _together(items: Sequence[Item], values: Values, control: Values, chance: dict[str, np.ndarray | float]) -> None:
    """Adds ``NAME_accuracy``: 1 where all items with the same id are right; it stands at the first of them."""
    for name in dict.fromkeys(name for item in items for name in item.together):
        members: dict[str, list[int]] = {}
        for n, item in enumerate(items):
            if name in item.together:
                members.setdefault(item.together[name], []).append(n)
        for end in ("", "_expected"):
            for columns in filter(None, (values, control)):
                column = np.full(len(items), np.nan)
                for places in members.values():
                    column[places[0]] = np.prod(columns[f"accuracy{end}"][places])
                columns[f"{name}_accuracy{end}"] = column
            level = np.full(len(items), np.nan)
            for places in members.values():
                level[places[0]] = chance["accuracy"] ** len(places)
            chance[f"{name}_accuracy{end}"] = level


def average_figures(rows: Rows, part_N: np.ndarray, name: str, tree: Tree, seed: int) -> list[Figure]:
    """The average ``tree`` over parts of every score; none if a part has no items."""
    weights = leaves(tree)
    if not set(weights) <= set(part_N):
        return []
    found = []
    for metric in rows.values:
        if not metric.endswith(("accuracy", "_score", "_expected")) and not metric.startswith("blind_"):
            continue
        where = [np.flatnonzero((part_N == part) & np.isfinite(rows.values[metric])) for part in weights]
        if all(len(places) for places in where):
            found.append(_average_figure(rows, metric, name, where, np.array(list(weights.values())), seed))
    return found


def _average_figure(rows: Rows, metric: str, name: str, where: list[np.ndarray], weight_P: np.ndarray, seed: int) -> Figure:
    columns = {"value": rows.values, "chance": rows.chance, "shuffled": rows.shuffled}
    means = {
        what: float(sum(w * _column(there[metric], len(rows))[n].mean() for w, n in zip(weight_P, where, strict=True)))
        for what, there in columns.items()
        if metric in there
    }
    places = np.concatenate(where)
    starts = np.cumsum([0, *(len(n) for n in where)])[:-1]
    value_N = rows.values[metric][places]

    def statistic(draws: np.ndarray) -> np.ndarray:
        hits, sizes = (np.add.reduceat(x, starts, axis=1) for x in (draws * value_N, draws))
        share = np.divide(hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
        weight = np.where(sizes > 0, weight_P, 0.0)  # a draw that loses a part weighs the others up
        return (share * weight).sum(1) / np.maximum(weight.sum(1), 1e-12)

    cluster = np.asarray(rows.cluster, dtype=object)[places].astype(str)
    low, high = bootstrap_statistic(statistic, cluster, seed=seed)
    value = means["value"]
    return Figure(
        f"{name}_{metric}", value, min(low, value), max(high, value), len(places), means.get("chance"), means.get("shuffled"),
        note=f"mean over {len(where)} parts",
    )  # fmt: skip


def _column(column: np.ndarray | float, count: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(column, dtype=np.float64), (count,))


def _protocol(benchmark: Benchmark, files: int, cut: int, texts: int) -> str:
    groups: dict[str, int] = {}
    for item in benchmark.items:
        groups[item.group] = groups.get(item.group, 0) + 1
    parts = [f"{len(benchmark.items):,} items on {files:,} pictures: {benchmark.protocol}"]
    short = {g: n for g, n in benchmark.published.items() if groups.get(g, 0) != n}
    if short:
        whole = sum(benchmark.published.values())
        parts.append(f"this is not the published benchmark, which has {whole:,} items, so do not compare with its figures")
    if 0 < files < FEW:
        parts.append(f"{files} pictures are too few to rank methods: look at the intervals")
    parts += benchmark.notes
    if cut:
        parts.append(f"{cut:,} of {texts:,} texts were cut at the model's context length")
    return "; ".join(parts) + "."
