"""The report: one HTML file that compares models, shows single items, and says where every number comes from.

The page needs no other file and no network: pictures are ``data:`` URIs, charts are SVG, whatever is long is folded. Its one script sorts and
filters tables; without it they are as they were written.

First what was found, in one sentence, one pair of pictures with what the models see in it, and one chart; then figures to unfold.

The path through this room::

    entry.py         what is compared: name, results, run, model
    tables.py        the comparison, with paired differences; summary.py says it in words, by the names of words.py
    dot_chart.py     the overview; figures.py curves; heatmaps.py where a model sees a phrase
    examples.py      single items: twins, hard negatives, retrievals; branch_views.py what branches answer to
    page.py          what all pages share
    report.html.j2   the page, in style.css.j2's clothes; audit_page.py and audit.html.j2 the page of an audit
    terminal.py      a twin on the terminal; contact_sheet.py a data set's page
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData
from wholegrain.report import branch_views, examples, tables
from wholegrain.report.dot_chart import dot_chart
from wholegrain.report.entry import Card, Entry
from wholegrain.report.figures import training_charts
from wholegrain.report.heatmaps import COLOURS, colour_stops
from wholegrain.report.page import page_environment, write_page
from wholegrain.report.published import Among
from wholegrain.report.reliability import reliability_charts
from wholegrain.report.summary import finding, largest, summary
from wholegrain.report.words import plain
from wholegrain.suggest import closest

__all__ = ["Entry", "Report", "write_report"]

TASK_NAMES = {
    "retrieval": "Retrieval", "composition": "Composition: twins", "hard_positives": "Hard positives",
    "negatives": "Hard negatives", "grounding": "Grounding", "branches": "Branches and roles", "zero_shot": "Zero-shot classification",
    "linear_probe": "Linear probe",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes:
        entries: the rows of the comparison. "Before and after" sets the first against the last.
        dataset: the data that the results are of.
        split: the split that the results are of.
        title: of the page.
        notes: further sentences below the summary.
        reference: the name of the entry that the others are compared with; the first by default.
        published: where the entries stand among the published runs.
        repaired, missed: twins to show, which the last entry gets right where the first does not, and which it gets wrong.
        seed: draws the twins that are shown; the same seed, the same page.
    """

    entries: Sequence[Entry]
    dataset: EvaluatedData
    split: str = "test"
    title: str = "Report"
    notes: Sequence[str] = ()
    reference: str = ""
    published: Among | None = None
    repaired: int = 6
    missed: int = 3
    seed: int = 0


def write_report(path: str | Path, report: Report) -> Path:
    """Writes the report, aside first.

    Args:
        path: the HTML file; its folder is made.

    Returns:
        ``path``.

    Raises:
        UserError: without entries, when two share a name, when none has a result, or when none is called ``report.reference``.
    """
    entries, dataset, split = report.entries, report.dataset, report.split
    _check(entries)
    reference = _index(entries, report.reference)
    page = page_environment().get_template("report.html.j2").render(
        title=report.title,
        notes=report.notes,
        entries=entries,
        split=split,
        tasks=_tasks(entries),
        charts=training_charts(entries),
        reliability=reliability_charts(entries),
        published=report.published,
        twins=_twins(report),
        branches=[m for entry in entries if (m := branch_views.branch_matrix(entry)) and not m["single"]],
        nearest={e.name: cards for e in entries if (cards := branch_views.nearest_captions(e, dataset, split, seed=report.seed))},
        fooled=examples.worst_negatives(entries, dataset),
        lost=examples.worst_retrievals(entries[-1], dataset, split),
        provenance=_provenance(entries, dataset),
        colours=COLOURS,
        stops=colour_stops(),
        reference=entries[reference].name,
        **_compared(entries, dataset, split, reference),
    )  # fmt: skip
    return write_page(Path(path), page)


def _check(entries: Sequence[Entry]) -> None:
    if not any(entry.results for entry in entries):
        raise UserError("There is nothing to report: no entry has a result; evaluate at least one model first.")
    names = [entry.name for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"Two entries of the report are called {twice[0]!r}; give each a name of its own.")


def _index(entries: Sequence[Entry], name: str) -> int:
    names = [entry.name for entry in entries]
    if name and name not in names:
        raise UserError(f'The report has no entry "{name}" to compare with; {closest(name, names)}')
    return names.index(name) if name else 0


def _compared(entries: Sequence[Entry], dataset: EvaluatedData, split: str, reference: int) -> Card:
    found = (tables.main_comparison(entries, reference), *tables.kind_comparisons(entries, reference))
    comparisons = [c for c in found if c.columns]
    weak = [column.title for c in comparisons for column in c.columns if column.weak]
    gain = largest(comparisons, "better", reference)
    return {
        "finding": finding(comparisons, reference),
        "headline": gain.title if gain is not None else "",
        "overview": dot_chart(comparisons[0]) if comparisons else "",
        "comparisons": comparisons,
        "weak": weak,
        "weak_below": tables.WEAK_BELOW,
        "summary": summary(entries, dataset, split, comparisons, reference),
    }


def _tasks(entries: Sequence[Entry]) -> list[Card]:
    names = dict.fromkeys(result.task for entry in entries for result in entry.results)
    tasks = []
    for name in names:
        protocols: dict[str, list[str]] = {}
        for entry in entries:
            if (result := entry.result(name)) is not None:
                protocols.setdefault(result.protocol, []).append(entry.name)
        tasks.append({
            "name": TASK_NAMES.get(name, plain(name)), "protocols": protocols,
            "short": tables.task_comparison(entries, name), "full": tables.full_comparison(entries, name),
            "left_out": _left_out(entries, name),
        })  # fmt: skip
    return tasks


def _left_out(entries: Sequence[Entry], task: str) -> dict[str, str]:
    """Names of entries -> why they lack the task, each reason once."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        if task in entry.left_out:
            names.setdefault(entry.left_out[task], []).append(entry.name)
    return {", ".join(together): why for why, together in names.items()}


def _twins(report: Report) -> Card | None:
    entries = [entry for entry in report.entries if entry.result("composition") is not None]
    if not entries:
        return None
    first, last = entries[0].result("composition"), entries[-1].result("composition")
    if first is None or last is None:
        return None
    chosen = examples.choose_twins(first, last, repaired=report.repaired, missed=report.missed, seed=report.seed)
    cards = examples.twin_cards(entries, report.dataset, [item for items in chosen.values() for item in items])
    by_item = {card["item"]: card for card in cards}
    groups = {name: [by_item[item] for item in items] for name, items in chosen.items()}
    return {"groups": groups, "flow": examples.twin_flow(first, last), "first": entries[0].name, "last": entries[-1].name}


def _provenance(entries: Sequence[Entry], dataset: EvaluatedData) -> Card:
    rows = []
    for entry in entries:
        facts = entry.history.facts
        kept = {
            "recipe": facts.get("recipe"), "paper": entry.history.recipe.get("paper"), "started from": facts.get("model"),
            "seed": facts.get("seed"), "training data": facts.get("data"), "data hash": facts.get("data_hash"),
            "command": facts.get("command"), "machine": facts.get("machine"), "run": str(entry.run) if entry.run else None,
            "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()) or None,
        }  # fmt: skip
        shown = {name: value for name, value in kept.items() if value not in (None, "")}
        rows.append({"name": entry.name, "facts": shown, "recipe": entry.history.recipe_text})
    return {
        "data_hash": getattr(dataset, "content_hash", ""),
        "data": str(getattr(dataset, "folder", "")),
        "rows": rows,
    }
