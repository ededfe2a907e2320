"""The page of an audit: a scorecard of single abilities, each beside its controls, then pictures of what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from wholegrain.evaluation.contract import EvaluatedData, PatchModel
from wholegrain.evaluation.features.encode import split_keys
from wholegrain.evaluation.read_outs.registry import default_read_outs
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.show import narrow_table, show
from wholegrain.report import examples
from wholegrain.report.entry import Card, Entry
from wholegrain.report.heatmaps import COLOURS, colour_stops, content_phrases, overlay, patch_maps
from wholegrain.report.page import page_environment, write_page
from wholegrain.report.pictures import data_uri, seen_part
from wholegrain.report.words import plain
from wholegrain.text.words.lexicon import lexicon

QUESTIONS = {
    "object_being": ("Who", "a man for a woman, a dog for a horse"),
    "object_thing": ("Thing", "a bench for a table, a guitar for a violin"),
    "object_clothing": ("Clothing", "a hat for a helmet"),
    "object_place": ("Place", "on the sand, or on the grass?"),
    "attribute_colour": ("Colour", "a thing’s colour exchanged for another that the captions use"),
    "attribute_size": ("Size", "big for small, long for short"),
    "attribute_age": ("Age", "young for old"),
    "attribute_material": ("Material", "wood for stone"),
    "attribute_state": ("State", "wet for dry, open for closed"),
    "attribute_texture": ("Texture", "striped for plain, rocky for grassy"),
    "relation": ("Relation", "in front of for behind, up for down"),
    "action": ("Action", "sits for runs"),
    "count": ("Number", "two dogs, or three?"),
    "swap_attribute": ("Whose attribute", "two colours or sizes of one caption change places"),
    "swap_object": ("Who does it to whom", "two beings or things of one caption change places"),
    "exchange_and": ("A and B, B and A", "both wordings must beat a false text"),
    "exchange_colours": ("Black and white, white and black", "both wordings must beat a false text"),
    "converse": ("A left of B, B right of A", "both wordings must beat a false text"),
    "number_form": ("Two, 2", "both wordings must beat a false text"),
    "synonym": ("Synonyms", "both wordings must beat a false text"),
    "verb_form": ("Runs, is running", "both wordings must beat a false text"),
}
"""Kind -> title and what is asked."""
MOST_PHRASES = 3
ENOUGH = 30
"""Questions of a kind by which something is said of it."""
NOUNS = sorted(lexicon().nouns)


@dataclass(frozen=True)
class ScorecardRow:
    """One ability on the scorecard.

    Attributes:
        kind, title, hint: what is asked.
        figure: the share that the model gets right, ties as one half; chance and shuffled beside it.
        blind: what the texts alone give: name -> share.
        verdict: ``sees``, ``partly``, ``texts``, ``guesses`` or ``few``; ``said`` has it in words.
        even: 0 to 1: how far the value is above the best of its controls, as a share of what is left above it.
    """

    kind: str
    title: str
    hint: str
    figure: Figure
    blind: Mapping[str, float]
    verdict: str
    said: str
    even: float

    def as_json(self) -> Card:
        """Plain values."""
        return asdict(self)


def scorecard(results: Sequence[TaskResult]) -> list[ScorecardRow]:
    """A line per kind of question, the least seen first; kinds with few items last."""
    lines = []
    for task, metric in (("negatives", "accuracy_expected"), ("hard_positives", "both_win_expected")):
        result = next((result for result in results if result.task == task), None)
        if result is None:
            continue
        figures = {figure.name: figure for figure in result.figures}
        for name, figure in figures.items():
            kind, _, rest = name.rpartition("/")
            if kind and rest == metric:
                blind = {
                    what: figures[f"{kind}/blind_{what}"].value
                    for what in ("shorter", "unigram")
                    if f"{kind}/blind_{what}" in figures
                }
                lines.append(_line(kind, figure, blind))
    return sorted(lines, key=lambda line: (line.verdict == "few", line.even))


def _line(kind: str, figure: Figure, blind: Mapping[str, float]) -> ScorecardRow:
    title, hint = QUESTIONS.get(kind, (kind.replace("_", " "), ""))
    chance = figure.chance or 0.0
    bar = max(chance, *blind.values(), figure.shuffled or 0.0) if blind else max(chance, figure.shuffled or 0.0)
    even = (figure.value - bar) / max(1e-9, 1 - bar)
    if figure.count < ENOUGH:
        verdict, said = "few", "too few to say"
    elif figure.low <= chance:
        verdict, said = "guesses", "no better than guessing"
    elif figure.low <= bar:
        verdict, said = "texts", "no better than without seeing"
    elif even < 0.5:
        verdict, said = "partly", "sees some of it"
    else:
        verdict, said = "sees", "mostly sees it"
    return ScorecardRow(kind, title, hint, figure, blind, verdict, said, even)


def scorecard_table(lines: Sequence[ScorecardRow]) -> Table:
    """The scorecard for the terminal; the verdict stands below what was asked."""
    table = narrow_table("asked", ("right", "95% interval", "chance", "shuffled", "texts\nalone", "items"))
    for line in lines:
        f = line.figure
        alone = show(max(line.blind.values()), "share") if line.blind else "–"
        cells = [
            show(f.value, f.unit),
            f"{show(f.low, f.unit)} – {show(f.high, f.unit)}",
            show(f.chance, f.unit),
            show(f.shuffled, f.unit),
        ]
        table.add_row(Text(line.title).append(f"\n{line.said}", "dim"), *cells, alone, f"{f.count:,}")
    return table


@dataclass(frozen=True)
class AuditPage:
    """What the page of an audit shows.

    Attributes:
        entry: the model, its name and results, what was left out, and features that are there already.
        dataset: the images that were asked about, with the questions as its sidecars.
        split: of the images.
        lines: the scorecard.
        facts: as :func:`wholegrain.workflows.audit.audit` counts them.
        pictures: how many photos are shown with heat maps.
        seed: draws those.
    """

    entry: Entry
    dataset: EvaluatedData
    split: str
    lines: Sequence[ScorecardRow]
    facts: Card
    pictures: int = 6
    seed: int = 0


def write_audit_page(path: Path, audit: AuditPage) -> Path:
    """Writes the page, aside first; it needs no other file and no network."""
    entry, dataset, split = audit.entry, audit.dataset, audit.split
    fooled = examples.worst_negatives([entry], dataset, most=2 * len(QUESTIONS))
    page = page_environment().get_template("audit.html.j2").render(
        name=Path(entry.name).name if Path(entry.name).exists() else entry.name,
        split=split,
        folder=getattr(dataset, "name", ""),
        finding=finding(audit.lines),
        hero=_hero(entry.loaded, dataset, fooled, audit.lines) if audit.pictures else None,
        lines=audit.lines,
        facts=audit.facts,
        left_out=entry.left_out,
        retrieval=_retrieval(entry),
        maps=_heat_cards(entry.loaded, dataset, split, audit.pictures, audit.seed),
        fooled=fooled,
        lost=examples.worst_retrievals(entry, dataset, split, count=4),
        protocols={result.task: result.protocol for result in entry.results},
        enough=ENOUGH,
        colours=COLOURS,
        stops=colour_stops(),
    )  # fmt: skip
    return write_page(path, page)


def _retrieval(entry: Entry) -> list[tuple[str, list[Figure]]]:
    rows = []
    for title, way in (("caption finds its photo", "image_retrieval"), ("photo finds a caption of its own", "text_retrieval")):
        found = [entry.figure("retrieval", f"{way}_recall@{k}") for k in (1, 5, 10)]
        if all(found):
            rows.append((title, [figure for figure in found if figure is not None]))
    return rows


def finding(lines: Sequence[ScorecardRow]) -> str:
    """What was found, in one sentence: the abilities that are not there, else the weakest one, and those that are."""
    if all(line.verdict == "few" for line in lines):
        return f"There are too few questions of any kind: {ENOUGH} are wanted. Ask about more photos, or with more captions."
    unseen = [line.title for line in lines if line.verdict in ("guesses", "texts")]
    seen = [line.title for line in lines if line.verdict == "sees"]
    if unseen:
        said = f"It does no better than guessing, or than the texts alone, at {_listed(unseen)}"
    else:
        least = next(line for line in lines if line.verdict != "few")
        said = f"It is weakest at {_listed([least.title])} ({show(least.figure.value, 'share')})"
    return f"{said}; it mostly sees {_listed(seen[::-1])}." if seen else f"{said}."


def _listed(titles: Sequence[str], most: int = 4) -> str:
    named = [f"“{title[0].lower()}{title[1:]}”" for title in titles[:most]]
    if len(titles) > most:
        named.append(f"{len(titles) - most} more")
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _hero(model: PatchModel, dataset: EvaluatedData, fooled: Sequence[Card], lines: Sequence[ScorecardRow]) -> Card | None:
    """Of the weakest ability the photo whose false text was preferred most clearly, and where the model sees the caption's phrases."""
    order = [plain(line.kind) for line in lines if line.verdict != "few"] or [plain(line.kind) for line in lines]
    found = [card for card in fooled if card["kind"] in order]
    if not found:
        return None
    worst = min(found, key=lambda card: order.index(card["kind"]))
    title = lines[[plain(line.kind) for line in lines].index(worst["kind"])].title
    phrases = content_phrases(worst["true"], NOUNS)[:MOST_PHRASES]
    try:
        maps = _maps(model, dataset, worst["key"], phrases)[: len(phrases)]  # by the read-out that it was trained for
    except NotSupportedError:
        maps = []
    return {**worst, "title": title, "maps": maps}


def _maps(model: PatchModel, dataset: EvaluatedData, key: str, phrases: Sequence[str]) -> list[Card]:
    """A map for each phrase by each of the model's read-outs. Raises :class:`NotSupportedError` for a model without patches."""
    pixels, ways = dataset.pixels(key), [read_out.name for read_out in default_read_outs(model)] if phrases else []
    maps = {way: patch_maps(model, [pixels], list(phrases), read_out=way)[0] for way in ways}
    if not maps:
        return []
    seen = model.preprocess.visible_box(*dataset.record(key).size)  # which a model without patches need not have
    return [
        {"phrase": phrase, "read_out": way, "low": float(m.min()), "high": float(m.max()), "uri": data_uri(overlay(pixels, m, seen=seen), 70)}
        for way in ways for phrase, m in zip(phrases, maps[way], strict=True)
    ]  # fmt: skip


def _heat_cards(model: PatchModel, dataset: EvaluatedData, split: str, count: int, seed: int) -> list[Card] | str:
    """Photos with a map for each noun phrase of a caption; a sentence where the model has no patches."""
    keys = split_keys(dataset, split)
    cards = []
    for n in np.random.default_rng(seed).permutation(len(keys)).tolist():
        if len(cards) >= count:
            break
        record = dataset.record(keys[int(n)])
        caption = max(record.captions, key=lambda c: (len(content_phrases(c.text, NOUNS)[:MOST_PHRASES]), -len(c.text)))
        phrases = content_phrases(caption.text, NOUNS)[:MOST_PHRASES]
        if len(phrases) < 2:
            continue
        try:
            shown = _maps(model, dataset, record.key, phrases)
        except NotSupportedError as reason:
            return str(reason)
        picture = seen_part(dataset.pixels(record.key), model.preprocess.visible_box(*record.size))
        cards.append({"caption": caption.text, "picture": data_uri(picture), "maps": shown})
    return cards
