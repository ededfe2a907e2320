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
    if figure.count < 30:
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
    page = page_environment().get_template("audit.html.j2").render(
        name=Path(entry.name).name if Path(entry.name).exists() else entry.name,
        split=split,
        folder=getattr(dataset, "name", ""),
        lines=audit.lines,
        facts=audit.facts,
        left_out=entry.left_out,
        retrieval=_retrieval(entry),
        maps=_heat_cards(entry.loaded, dataset, split, audit.pictures, audit.seed),
        fooled=examples.worst_negatives([entry], dataset),
        lost=examples.worst_retrievals(entry, dataset, split, count=4),
        summary=_summary(audit.lines, audit.facts),
        protocols={result.task: result.protocol for result in entry.results},
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


def _summary(lines: Sequence[ScorecardRow], facts: Card) -> list[str]:
    said = []
    for verdict, words in (
        ("guesses", "No better than guessing"), ("texts", "No better than without the photo"), ("partly", "Seen in part"),
        ("sees", "Mostly seen"), ("few", "Too few questions to say"),
    ):  # fmt: skip
        named = [f"{line.title} ({show(line.figure.value, 'share')})" for line in lines if line.verdict == verdict]
        if named:
            said.append(f"{words}: {'; '.join(named)}.")
    if facts["cut"]:
        said.append(f"{facts['cut share']:.1%} of the texts are longer than the {facts['context']} tokens that the model reads.")
    return said


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
        pixels = dataset.pixels(record.key)
        try:
            ways = [read_out.name for read_out in default_read_outs(model)]
            maps = {way: patch_maps(model, [pixels], phrases, read_out=way)[0] for way in ways}
        except NotSupportedError as reason:
            return str(reason)
        seen = model.preprocess.visible_box(*record.size)
        shown = [
            {"phrase": phrase, "read_out": way, "low": float(m.min()), "high": float(m.max()),
             "uri": data_uri(overlay(pixels, m, seen=seen), 70)}
            for way in ways for phrase, m in zip(phrases, maps[way], strict=True)
        ]  # fmt: skip
        cards.append({"caption": caption.text, "picture": data_uri(seen_part(pixels, seen)), "maps": shown})
    return cards
