"""The pages of ``docs/results`` and the README's table, written from kept competitions by templates: every number in them is computed here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from results import questions
from results.charts import draw_curves, draw_gaps
from results.claims import CLAIMS, MARGIN, verdict
from results.costs import load_costs
from results.measure import NAMES, Comparison, Measure, cell, interval, rows
from results.published import published, write
from results.store import load
from wholegrain.evaluation.statistics.compare import Mean
from wholegrain.workflows.demo import WEIGHT

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Page:
    """What a template can say of one comparison.

    Attributes:
        comparison: the kept competition.
        images: the folder of charts, beside the page.
    """

    comparison: Comparison
    images: Path

    def curves(self, name: str, measures: Sequence[Measure], methods: Sequence[str], columns: int = 3) -> str:
        """Draws a chart; gives the Markdown that shows it."""
        draw_curves(self.images / f"{name}.svg", self.comparison, measures, methods, columns)
        return f"![{', '.join(m.title for m in measures)}: per cent over pictures seen](images/{name}.svg)"

    def gaps(self, name: str, measures: Sequence[Measure], methods: Sequence[str], reference: str = "clip", columns: int = 3) -> str:
        """Draws the differences from a method; gives the Markdown that shows them."""
        others = [method for method in methods if method != reference]
        draw_gaps(self.images / f"{name}.svg", self.comparison, measures, others, reference, columns)
        return f"![{', '.join(m.title for m in measures)}: points from {NAMES[reference]}](images/{name}.svg)"

    def table(self, measures: Sequence[Measure], methods: Sequence[str], budget: int, reference: str = "clip") -> str:
        """Markdown: a measure a row, a method a column."""
        head = ["", *(NAMES[method] for method in methods), "chance"]
        return markdown(head, rows(self.comparison, measures, methods, budget, reference))

    def gains(self, measures: Sequence[Measure], methods: Sequence[str], budget: int, reference: str = "clip") -> str:
        """Markdown: differences from the reference with their intervals, in points."""
        body = []
        for measure in measures:
            found = [self.comparison.mean(method, budget, measure, reference) for method in methods]
            body.append([measure.title, *("" if mean is None else interval(mean) for mean in found)])
        return markdown(["", *(NAMES[method] for method in methods)], body)

    def against_best(self, measures: Sequence[Measure], method: str, budget: int) -> str:
        """Markdown: the best other method of each measure, the difference from it, and whether the interval leaves room for a point less."""
        body = []
        for measure in measures:
            best = self._best_other(method, measure, budget)
            gap = self.comparison.mean(method, budget, measure, best)
            assert gap is not None, measure
            body.append([measure.title, self.value(method, measure, budget), f"{NAMES[best]} {self.value(best, measure, budget)}", interval(gap), said(gap)])
        return markdown(["", NAMES[method], "best other", "difference, points (95%)", ""], body)

    def against_best_in_time(self, measures: Sequence[Measure], method: str, budget: int) -> str:
        """Markdown: the same, but the method takes no more steps than fit into the time that the best other one takes for so many."""
        body = []
        for measure in measures:
            best = self._best_other(method, measure, budget)
            steps = self.comparison.steps_within(method, best, budget)
            gap = None if steps is None else self.comparison.mean(method, steps, measure, best, budget)
            row = ["none", "", "", ""] if steps is None or gap is None else [str(steps), self.value(method, measure, steps), interval(gap), said(gap)]
            body.append([measure.title, f"{NAMES[best]} {self.value(best, measure, budget)}", *row])
        return markdown(["", f"best other, {budget} steps", "steps in that time", NAMES[method], "difference, points (95%)", ""], body)

    def tally(self, measures: Sequence[Measure], method: str, budget: int) -> str:
        """In how many measures a method is superior to the best other one, and so on: "superior in 12, not inferior in 3, open in 2 of 17"."""
        gaps = [self.comparison.mean(method, budget, measure, self._best_other(method, measure, budget)) for measure in measures]
        found = Counter(said(gap) for gap in gaps if gap is not None)
        return ", ".join(f"{verdict} in {found[verdict]}" for verdict in VERDICTS if found[verdict]) + f" of {len(measures)}"

    def costs(self, reference: str = "clip") -> str:
        """What a step of each method costs, as a multiple of another's."""
        seconds = self.comparison.step_seconds
        return ", ".join(f"{NAMES[method]} {seconds[method] / seconds[reference]:.2f}" for method in self.comparison.methods if method in seconds)

    def _best_other(self, method: str, measure: Measure, budget: int) -> str:
        others = {name: self.comparison.mean(name, budget, measure) for name in self.comparison.methods if name != method}
        known = {name: mean.value for name, mean in others.items() if mean is not None}
        return max(known, key=lambda name: known[name])

    def value(self, method: str, measure: Measure, budget: int) -> str:
        """Per cent."""
        return cell(self.comparison.mean(method, budget, measure))

    def gain(self, method: str, measure: Measure, budget: int, reference: str = "clip") -> str:
        """Points, with the interval."""
        mean = self.comparison.mean(method, budget, measure, reference)
        assert mean is not None, (method, measure)
        return interval(mean)

    @property
    def made(self) -> str:
        """Commands, seeds, machines and dates, a paragraph each; commands that differ in nothing but the seed are one."""
        alike: dict[tuple[str, str], list[str]] = {}
        for facts in self.comparison.stored.facts:
            of = f"{facts['machine']}, torch {facts['versions']['torch']}; {facts['date']}, at commit {facts['commit']}."
            command, seed = _without_its_seed(facts["command"])
            alike.setdefault((command, of), []).append(seed)
        said = [f"`{_with_seed(command, seeds)}; {of}" for (command, of), seeds in alike.items()]
        return "\n\n".join([f"Seeds {', '.join(map(str, self.comparison.seeds))}. Of runs that two commands made, those of the later one are shown.", *said])


def _without_its_seed(command: str) -> tuple[str, str]:
    """``--seeds 3 … --out seed-3`` with N in place of 3, and 3; another command as it is."""
    found = re.fullmatch(r"(.* --seeds )(\d+)( .*--out seed-)\2", command)
    return (command, "") if found is None else (f"{found[1]}N{found[3]}N", found[2])


def _with_seed(command: str, seeds: Sequence[str]) -> str:
    several = len(seeds) > 1
    return f"{command}` for N = {', '.join(sorted(seeds))}" if several else re.sub(r"( --seeds | --out seed-)N\b", rf"\g<1>{seeds[0]}", command) + "`"


VERDICTS = ("superior", "not inferior", "open", "inferior")


def said(gap: Mean) -> str:
    """What an interval says of a difference."""
    return "superior" if gap.low > 0 else "not inferior" if gap.low > -MARGIN else "inferior" if gap.high < 0 else "open"


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(docs: Path, readme: Path, shipped: Path) -> list[Path]:
    """Writes every page that has a template, the README's table between its marks, and the figures that ship; gives what was written."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    step_seconds = load_costs(docs / "data" / "costs.json")
    kept = {folder.name: Comparison(load(folder), step_seconds) for folder in sorted((docs / "data").iterdir()) if folder.is_dir()}
    pages = {name: Page(comparison, docs / "images") for name, comparison in kept.items()}
    claims = markdown(["paper", "claim", "measured by", "difference, points (95%)", ""], [verdict(claim, kept) for claim in CLAIMS])
    written = []
    for template in sorted(TEMPLATES.glob("*.md.j2")):
        path = docs / template.stem
        text = environment.get_template(template.name).render(**pages, m=questions, names=NAMES, claims=claims, weight=f"{WEIGHT:g}")
        if text.strip():  # else a page of a comparison that is not kept
            path.write_text(text, encoding="utf-8")
            written.append(path)
    written.append(_into(readme, environment.get_template("readme_table.j2").render(**pages, m=questions, names=NAMES)))
    return [*written, write(shipped, published(kept["set_a"], questions.SHORT))]


MARKS = ("<!-- results: written by make results -->", "<!-- end of results -->")


def _into(readme: Path, table: str) -> Path:
    """Puts the table between the marks."""
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    readme.write_text(f"{before}{MARKS[0]}\n{table.strip()}\n{MARKS[1]}{after}", encoding="utf-8")
    return readme
