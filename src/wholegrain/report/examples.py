"""Single items, chosen by rule and not by hand: twins before and after, the worst hard negatives, the worst retrievals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute
import torch

from wholegrain.data.record import Negative, caption_id
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, PatchModel
from wholegrain.evaluation.features.encode import default_needs, encode_keys, encode_texts, split_keys
from wholegrain.evaluation.read_outs.registry import default_read_outs
from wholegrain.evaluation.result import NotSupportedError, TaskResult, need_columns
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.statistics.blind import words
from wholegrain.report.contact_sheet import mark_edits
from wholegrain.report.entry import Card, Entry
from wholegrain.report.heatmaps import content_phrases, content_words, patch_maps, phrase_overlay
from wholegrain.report.pictures import data_uri, seen_part
from wholegrain.report.words import plain

_compute: Any = pyarrow.compute  # its functions are made at import, where no type checker sees them

MOST_PHRASES = 4
MOST_WORDS = 6
WORD_READ_OUTS = ("token", "token_cosine")
"""Read-outs that see a word of a caption, not only a phrase by itself."""
MOST_CANDIDATES = 1000


@dataclass(frozen=True)
class Scores:
    """The 2x2 scores of a twin by one entry: ``values[i][j]`` of picture i and caption j."""

    name: str
    values: tuple[tuple[float, float], tuple[float, float]]

    @property
    def group(self) -> bool:
        """Both pictures pick their captions and both captions their pictures."""
        (a, b), (c, d) = self.values
        return min(a, d) > max(b, c)

    def shown(self, i: int, j: int) -> str:
        """A score with as many digits as it takes to tell the four apart."""
        cells = [value for row in self.values for value in row]
        gaps = [abs(a - b) for n, a in enumerate(cells) for b in cells[n + 1 :] if a != b]
        digits = next((d for d in (3, 4, 5) if min(gaps, default=1.0) >= 10.0**-d), 5)
        return f"{self.values[i][j]:.{digits}f}".replace("-", "−")

    def right(self, i: int, j: int) -> bool:
        """Whether a cell keeps to its side: the true ones above both of their rivals, the false ones below both."""
        mine, rivals = self.values[i][j], (self.values[i][1 - j], self.values[1 - i][j])
        return mine > max(rivals) if i == j else mine < min(rivals)


def twin_rows(result: TaskResult | None) -> dict[str, Card]:
    """Item -> its row, of a composition result."""
    if result is None:
        return {}
    need_columns(result, ("item", "group", "group_score"))
    return {row["item"]: row for row in result.items.to_pylist()}


def choose_twins(
    first: TaskResult, last: TaskResult, *, repaired: int = 6, missed: int = 3, seed: int = 0
) -> dict[str, list[str]]:
    """Items drawn by ``seed``, in turn from every kind: ``repaired`` (the first wrong, the last right by the group score), ``missed``
    (the last wrong). With one and the same result for both, ``repaired`` holds what it gets right."""
    a, b = twin_rows(first), twin_rows(last)
    common = [item for item in a if item in b]
    alone = first is last
    pools = {
        "repaired": [i for i in common if b[i]["group_score"] == 1 and (alone or a[i]["group_score"] == 0)],
        "missed": [i for i in common if b[i]["group_score"] == 0],
    }
    wanted = {"repaired": repaired, "missed": missed}
    return {name: _in_turn([(a[i]["group"], i) for i in pool], wanted[name], seed) for name, pool in pools.items()}


def _in_turn(pool: Sequence[tuple[str, str]], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    by_kind: dict[str, list[str]] = {}
    for place in rng.permutation(len(pool)):
        by_kind.setdefault(pool[place][0], []).append(pool[place][1])
    queues = [by_kind[kind] for kind in sorted(by_kind)]
    turns = [queue[n] for n in range(max(map(len, queues), default=0)) for queue in queues if n < len(queue)]
    return turns[:count]


def twin_flow(first: TaskResult, last: TaskResult) -> dict[str, int]:
    """How many items the last gets right that the first gets wrong (``repaired``), the other way round (``broken``), and ``both``,
    ``neither``, ``all``."""
    a, b = twin_rows(first), twin_rows(last)
    pairs = [(a[i]["group_score"] == 1, b[i]["group_score"] == 1) for i in a if i in b]
    named = {"repaired": (False, True), "broken": (True, False), "both": (True, True), "neither": (False, False)}
    return {name: pairs.count(pair) for name, pair in named.items()} | {"all": len(pairs)}


def twin_cards(entries: Sequence[Entry], dataset: EvaluatedData, items: Sequence[str]) -> list[Card]:
    """What the page shows of each twin: pictures, captions, every entry's scores and heat maps."""
    for result in filter(None, (entry.result("composition") for entry in entries)):
        need_columns(result, ("key0", "key1", "caption0", "caption1", "s00", "s01", "s10", "s11"))
    rows = {entry.name: twin_rows(entry.result("composition")) for entry in entries}
    named = next(iter(rows.values()))
    cards = []
    for item in items:
        row = named[item]
        keys, captions = (row["key0"], row["key1"]), (row["caption0"], row["caption1"])
        scores = [
            Scores(name, ((r["s00"], r["s01"]), (r["s10"], r["s11"]))) for name, found in rows.items() if (r := found.get(item))
        ]
        nouns = {word for key in keys for region in dataset.record(key).regions for word in words(region.phrase)[-1:]}
        phrases = list(dict.fromkeys(p for caption in captions for p in content_phrases(caption, sorted(nouns))))[:MOST_PHRASES]
        card = {
            "item": item,
            "kind": plain(row["group"]),
            "keys": keys,
            "captions": captions,
            "scores": scores,
            "phrases": phrases,
        }
        card["pictures"] = [data_uri(seen_part(dataset.pixels(key))) for key in keys]
        cards.append(card | {"maps": {}, "words": {}})
    for entry in entries:
        _add_maps(entry, dataset, cards)
    return cards


def _add_maps(entry: Entry, dataset: EvaluatedData, cards: list[Card]) -> None:
    """``card["maps"][name]``: per phrase its text, read-out, range and the heat map over both pictures; both share one scale. By the common read-out
    and the model's own; where that is one of words, in its place ``card["words"][name]``: the words of each caption on its own picture."""
    model = entry.loaded
    keys = list(dict.fromkeys(key for card in cards for key in card["keys"]))
    phrases = list(dict.fromkeys(phrase for card in cards for phrase in card["phrases"]))
    if model is None or not keys or not phrases:
        return
    pixels = {key: dataset.pixels(key) for key in keys}
    try:
        ways = [read_out.name for read_out in default_read_outs(model)]
        maps = {way: patch_maps(model, list(pixels.values()), phrases, read_out=way) for way in ways if way not in WORD_READ_OUTS}
    except NotSupportedError:
        return
    for card in cards:
        shown = []
        for way, phrase in ((way, phrase) for phrase in card["phrases"] for way in maps):
            both = [maps[way][keys.index(key), phrases.index(phrase)] for key in card["keys"]]
            scale = float(min(m.min() for m in both)), float(max(m.max() for m in both))
            heats = [
                phrase_overlay(model, dataset.record(key), pixels[key], m, phrase, scale)
                for key, m in zip(card["keys"], both, strict=True)
            ]
            uris = [data_uri(heat, quality=70) for heat in heats]
            shown.append({"phrase": phrase, "read_out": way, "low": scale[0], "high": scale[1], "uris": uris})
        card["maps"][entry.name] = shown
        words = [way for way in ways if way in WORD_READ_OUTS]
        card["words"][entry.name] = [_word_maps(model, dataset, card, pixels, way, n) for way in words for n in (0, 1)]


def _word_maps(
    model: PatchModel, dataset: EvaluatedData, card: Card, pixels: Mapping[str, np.ndarray], read_out: str, n: int
) -> Card:
    """The words of a card's caption on its own picture, each in a scale of its own."""
    key, words = card["keys"][n], content_words(card["captions"][n])[:MOST_WORDS]
    maps = patch_maps(model, [pixels[key]], words, read_out=read_out)[0] if words else []
    shown = []
    for word, map_RC in zip(words, maps, strict=True):
        name, scale = word.text[word.start : word.end], (float(map_RC.min()), float(map_RC.max()))
        heat = phrase_overlay(model, dataset.record(key), pixels[key], map_RC, name, scale)
        shown.append({"word": name, "low": scale[0], "high": scale[1], "uri": data_uri(heat, quality=70)})
    return {"picture": n, "read_out": read_out, "words": shown}


def worst_negatives(entries: Sequence[Entry], dataset: EvaluatedData, *, per_kind: int = 2, most: int = 16) -> list[Card]:
    """The hard negatives that the last entry prefers most clearly to the truth, per kind, with every entry's margins."""
    found = [(entry.name, result) for entry in entries if (result := entry.result("negatives")) is not None]
    if not found:
        return []
    for _, result in found:
        need_columns(result, ("item", "group", "cluster", "true", "false", "s_true", "s_false"))
    margins = {name: dict(zip(r.items["item"].to_pylist(), _margin(r), strict=True)) for name, r in found}
    last = found[-1][1].items
    last = last.append_column("margin", [_margin(found[-1][1])]).filter(_compute.less(_margin(found[-1][1]), 0.0))
    cards, per = [], {}
    for row in last.sort_by([("margin", "ascending")]).to_pylist():
        if per.get(row["group"], 0) >= per_kind:
            continue
        per[row["group"]] = per.get(row["group"], 0) + 1
        negative = _negative(dataset, row)
        cards.append({
            "kind": plain(row["group"]), "key": row["cluster"], "true": row["true"], "false": row["false"],
            "pieces": mark_edits(row["true"], negative) if negative else [("new", row["false"])],
            "margins": [(name, by_item.get(row["item"])) for name, by_item in margins.items()],
            "picture": data_uri(seen_part(dataset.pixels(row["cluster"]))),
        })  # fmt: skip
    return sorted(cards[:most], key=lambda card: card["kind"])


def _margin(result: TaskResult) -> np.ndarray:
    return result.items["s_true"].to_numpy() - result.items["s_false"].to_numpy()


def _negative(dataset: EvaluatedData, row: Card) -> Negative | None:
    rows = dataset.negatives.get((row["cluster"], caption_id(row["true"])), ())
    return next((negative for negative in rows if negative.text == row["false"]), None)


def worst_retrievals(entry: Entry, dataset: EvaluatedData, split: str, *, count: int = 6) -> list[Card]:
    """The captions whose own picture the entry ranks lowest, below the first place, with the picture that it puts first among (at most
    ``MOST_CANDIDATES`` of) the split's; pictures of which the caption is known to be true are not counted as first. What ``entry.features``
    holds is not encoded again."""
    result = entry.result("retrieval")
    if result is None or "image_retrieval_mean_rank" not in result.items.column_names:
        return []
    need_columns(result, ("item", "cluster", "overall", "candidates"))
    items = result.items.filter(
        _compute.and_(result.items["overall"], _compute.greater(result.items["image_retrieval_mean_rank"], 1))  # no null either
    )
    worst = items.sort_by([("image_retrieval_mean_rank", "descending")]).slice(0, 40 * count).to_pylist()
    cards, used = [], set()
    for row in worst:
        record = dataset.record(row["cluster"])
        caption = next((c for c in record.captions if row["item"].startswith(f"{record.key}:{c.id}")), None)
        if caption is None or record.key in used:
            continue
        used.add(record.key)
        cards.append({"caption": caption, "key": record.key, "rank": row["image_retrieval_mean_rank"], "of": row["candidates"]})
        if len(cards) == count:
            break
    for card, first in zip(cards, _first_pictures(entry, dataset, split, cards), strict=True):
        card["picture"] = data_uri(seen_part(dataset.pixels(card["key"])))
        card["first"] = None if first is None else data_uri(seen_part(dataset.pixels(first)))
        card["first_caption"] = "" if first is None else dataset.record(first).captions[0].text
    return cards


def _first_pictures(entry: Entry, dataset: EvaluatedData, split: str, cards: list[Card]) -> list[str | None]:
    model, known = entry.loaded, entry.features
    if model is None or not cards:
        return [None] * len(cards)
    keys = list(dict.fromkeys([card["key"] for card in cards] + list(split_keys(dataset, split))[:MOST_CANDIDATES]))
    needs = default_needs(model)
    image = encode_keys(model, dataset, keys, needs, known=known)
    text = encode_texts(model, [card["caption"].text for card in cards], needs, known=known)
    try:
        scores_BN = Scorer(image, text, model).rows(0, len(keys)).clone()
    except UserError:
        return [None] * len(cards)
    place = {key: b for b, key in enumerate(keys)}
    for n, card in enumerate(cards):
        true = {card["key"], *dataset.truths.get(card["caption"].id, ())}
        scores_BN[[place[key] for key in true if key in place], n] = -torch.inf
    return [keys[b] for b in scores_BN.argmax(0).tolist()]
