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


VERDICTS = ("superior", "not inferior", "open", "inferior", "has no such budget")


@dataclass(frozen=True)
class Rival:
    """A method beside the best other one in a measure.

    Attributes:
        measure, method, best: which.
        steps, budget: of the method, and of the best other one; ``None`` where the method's smallest budget takes longer.
        gap: the difference from it.
    """

    measure: Measure
    method: str
    best: str
    steps: int | None
    budget: int
    gap: Mean | None

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.gap is None:
            return VERDICTS[4]
        return VERDICTS[0] if self.gap.low > 0 else VERDICTS[1] if self.gap.low > -MARGIN else VERDICTS[3] if self.gap.high < 0 else VERDICTS[2]


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

    def at_equal_pairs(self, measures: Sequence[Measure], method: str, budget: int) -> list[Rival]:
        """The best other method of each measure, both after so many steps."""
        return [self._rival(measure, method, self._best_other(method, measure, budget), budget, budget) for measure in measures]

    def at_equal_time(self, measures: Sequence[Measure], method: str, budget: int) -> list[Rival]:
        """The same, but the method takes no more steps than fit into the time that the best other one takes for so many."""
        best = {measure: self._best_other(method, measure, budget) for measure in measures}
        return [self._rival(measure, method, name, self.comparison.steps_within(method, name, budget), budget) for measure, name in best.items()]

    def _rival(self, measure: Measure, method: str, best: str, steps: int | None, budget: int) -> Rival:
        gap = None if steps is None else self.comparison.mean(method, steps, measure, best, budget)
        return Rival(measure, method, best, steps, budget, gap)

    def against(self, rivals: Sequence[Rival]) -> str:
        """Markdown: the best other method of each measure, the difference from it, and whether the interval leaves room for a point less."""
        body = []
        for it in rivals:
            own = ["none", "", ""] if it.steps is None or it.gap is None else [str(it.steps), self.value(it.method, it.measure, it.steps), interval(it.gap)]
            body.append([it.measure.title, f"{NAMES[it.best]} {self.value(it.best, it.measure, it.budget)}", *own, it.verdict])
        first = rivals[0]
        return markdown(["", f"best other, {first.budget} steps", "steps", NAMES[first.method], "difference, points (95%)", ""], body)

    def tally(self, rivals: Sequence[Rival]) -> str:
        """How often each verdict is given: "superior in 12, not inferior in 3, open in 2 of 17"."""
        found = Counter(it.verdict for it in rivals)
        return ", ".join(f"{verdict} in {found[verdict]}" for verdict in VERDICTS if found[verdict]) + f" of {len(rivals)}"

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


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def render(docs: Path, readme: Path, shipped: Path) -> list[Path]:
    """Writes every page that has a template, the README's table between its marks, and the figures that ship; gives what was written."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    costs = load_costs(docs / "data" / "costs.json")
    kept = {folder.name: Comparison(load(folder), costs.seconds) for folder in sorted((docs / "data").iterdir()) if folder.is_dir()}
    pages = {name: Page(comparison, docs / "images") for name, comparison in kept.items()}
    claims = markdown(["paper", "claim", "measured by", "difference, points (95%)", ""], [verdict(claim, kept) for claim in CLAIMS])
    written = []
    for template in sorted(TEMPLATES.glob("*.md.j2")):
        path = docs / template.stem
        text = environment.get_template(template.name).render(**pages, m=questions, names=NAMES, claims=claims, weight=f"{WEIGHT:g}", costs=costs.made)
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
