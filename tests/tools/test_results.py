"""The published comparison: what is kept gives the same figures, intervals and verdicts as the runs' own results, and pages say them."""

import re
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from results.charts import draw_curves
from results.claims import Claim, verdict
from results.measure import OWN, Comparison, Measure, interval
from results.pages import MARKS, Page, Rival, _into, render
from results.store import START, Run, Stored, added, load, save

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.compare import Mean, mean_over_seeds

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
RECALL = Measure("caption to picture", "retrieval", "recall@1")
BRANCH = Measure("background", "branches", "background/single_recall@1", (("holistic", "background/branch_1_recall@1"),))


def result(task, figure, values):
    group, _, metric = figure.rpartition("/")
    count = len(values)
    rows = {"item": [f"i{n}" for n in range(count)], "group": [group] * count, "cluster": [f"k{n // 2}" for n in range(count)]}
    items = pa.table({**rows, "overall": [not group] * count, metric: np.asarray(values, float), "text": ["said"] * count})
    return TaskResult(task, "A protocol.", (Figure(figure, float(np.mean(values)), 0.0, 1.0, count, 0.1),), items)


@pytest.fixture(scope="module")
def stored():
    draw = np.random.default_rng(0)
    share = {"clip": 0.4, "sparc": 0.4, "holistic": 0.9}

    def results(method, budget):
        hits = (draw.random(40) < share.get(method, 0.2) + budget / 1000).astype(float)
        figure = BRANCH.of(method)
        return [result("retrieval", "recall@1", hits), result("branches", figure, (draw.random(40) < share.get(method, 0.1)).astype(float))]

    runs = [Run(START, 0, 0, 0, 0.0, results(START, 0))]
    runs += [Run(m, s, b, 128, 2.0 * b, results(m, b)) for m in share for s in (0, 1) for b in (75, 300)]
    facts = {"command": "compete", "data": "d", "machine": "a machine", "date": "2026-01-01", "commit": "abc", "versions": {"torch": "2"}}
    return Stored([facts], "clip", runs)


@pytest.fixture(scope="module")
def comparison(stored, tmp_path_factory):
    return Comparison(load(save(stored, tmp_path_factory.mktemp("kept") / "set_a")))


def test_what_is_kept_gives_the_figures_and_intervals_of_the_runs(stored, comparison):
    for method, minus in (("sparc", ""), ("sparc", "clip")):
        own = [[r.results[0] for r in stored.runs if (r.method, r.budget) == (name, 300)] for name in (method, minus) if name]
        assert comparison.mean(method, 300, RECALL, minus) == mean_over_seeds(own[0], "recall@1", own[1] if minus else ())
    assert (comparison.methods, comparison.budgets, comparison.seeds) == (["clip", "sparc", "holistic"], [75, 300], [0, 1])


def test_runs_that_are_added_later_stand_beside_the_kept_and_take_the_place_of_their_own_kind(stored, tmp_path):
    kept = load(save(replace(stored, runs=[run for run in stored.runs if run.seed == 0]), tmp_path / "kept"))
    later = replace(stored, facts=[{**stored.facts[0], "machine": "another"}], runs=[run for run in stored.runs if run.seed == 1 or run.budget == 75])
    both = load(save(added(kept, later), tmp_path / "kept"))
    whole, found = Comparison(stored), Comparison(both)
    assert [facts["machine"] for facts in both.facts] == ["a machine", "another"]
    assert len(both.runs) == len(stored.runs)
    for method in whole.methods:
        assert found.mean(method, 300, RECALL, "") == whole.mean(method, 300, RECALL, "")
    with pytest.raises(UserError, match="the data of the kept competition is d, of the new runs e"):
        added(kept, replace(later, facts=[{**stored.facts[0], "data": "e"}]))


def test_a_command_of_which_every_run_is_made_anew_is_no_longer_told(stored):
    commands = {m: f"wholegrain compete {m} --data d --budgets 75 300 --seeds 0 1 --out o" for m in ("scenes/clip scenes/sparc", "scenes/sparc")}
    facts = {methods: {**stored.facts[0], "command": command} for methods, command in commands.items()}
    kept = replace(stored, facts=[*stored.facts, *facts.values()])
    again = replace(stored, facts=[{**stored.facts[0], "machine": "another"}], runs=[run for run in stored.runs if run.method == "sparc"])
    assert added(kept, again).facts == [*stored.facts, facts["scenes/clip scenes/sparc"], *again.facts]
    part = replace(again, runs=[run for run in again.runs if run.seed == 0])
    assert added(kept, part).facts == [*kept.facts, *again.facts]


def test_a_branch_is_compared_with_the_one_vector_item_by_item(comparison):
    gap = comparison.mean("holistic", 300, BRANCH, "clip")
    means = [comparison.mean(method, 300, BRANCH).value for method in ("holistic", "clip")]
    assert gap.value == pytest.approx(means[0] - means[1])
    assert gap.low > 0


def test_a_read_out_in_a_group_of_its_own_is_compared_with_the_common_one():
    hits = {"pooled": np.array([0.0, 1.0, 0.0, 1.0]), "token": np.array([1.0, 1.0, 1.0, 0.0])}
    both = pa.concat_tables([result("grounding", "hit_own", hits["pooled"]).items, result("grounding", "token/hit_own", hits["token"]).items])
    figures = [result("grounding", name, values).figures[0] for name, values in (("hit_own", hits["pooled"]), ("token/hit_own", hits["token"]))]
    runs = [Run(m, 0, 75, 128, 1.0, [TaskResult("grounding", "", tuple(figures), both)]) for m in ("clip", "sparc")]
    gap = Comparison(Stored({}, "clip", runs)).mean("sparc", 75, OWN, "clip")
    assert gap.value == (hits["token"] - hits["pooled"]).mean()


def test_verdicts_are_those_of_the_intervals(comparison):
    kept = {"set_a": comparison}
    said = [verdict(Claim("P", "says", a, b, BRANCH), kept)[-1] for a, b in (("holistic", "clip"), ("clip", "holistic"), ("sparc", "clip"))]
    assert said == ["holds", "does not hold", "not shown"]
    assert verdict(Claim("P", "says", "absent", "clip", BRANCH), kept)[-1] == "not measured yet"
    assert verdict(Claim("P", "keeps", "holistic", "clip", BRANCH, keeps=True), kept)[-1] == "holds"


def test_pages_say_what_is_measured_and_the_same_results_draw_the_same_bytes(comparison, tmp_path):
    page = Page(comparison, tmp_path)
    assert f"| {100 * comparison.mean('clip', 300, RECALL).value:.1f} |" in page.table([RECALL], ["clip", "sparc"], 300)
    assert page.gain("sparc", RECALL, 300) == interval(comparison.mean("sparc", 300, RECALL, "clip"))
    drawn = [draw_curves(tmp_path / f"{n}.svg", comparison, [RECALL], ["clip", "sparc"]).read_bytes() for n in (0, 1)]
    assert drawn[0] == drawn[1]
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    assert _into(readme, "new").read_text() == f"before\n{MARKS[0]}\nnew\n{MARKS[1]}\nafter\n"


def test_at_equal_time_a_dearer_method_takes_fewer_steps(stored):
    comparison = Comparison(stored, {"clip": 1.0, "sparc": 3.0, "holistic": 1.0})
    assert [comparison.steps_within("sparc", "clip", steps) for steps in (900, 300, 100)] == [300, 75, None]
    holistic, sparc = ([r.results[0] for r in stored.runs if (r.method, r.budget) == run] for run in (("holistic", 300), ("sparc", 75)))
    gap = comparison.mean("sparc", 75, RECALL, "holistic", 300)
    assert gap == mean_over_seeds(sparc, "recall@1", holistic)
    page = Page(comparison, Path())
    (rival,) = page.at_equal_time([RECALL], "sparc", 300)
    assert (rival.best, rival.steps, rival.gap) == ("holistic", 75, gap)
    head, _, row = page.against([rival]).splitlines()
    assert "best other, 300 steps" in head
    assert row.startswith(f"| caption to picture | Holistic {100 * comparison.mean('holistic', 300, RECALL).value:.1f} | 75 | ")
    assert row.endswith(f"{interval(gap)} | {rival.verdict} |")
    (equal,) = page.at_equal_pairs([RECALL], "sparc", 300)
    assert (equal.steps, equal.gap) == (300, comparison.mean("sparc", 300, RECALL, "holistic"))
    (late,) = page.at_equal_time([RECALL], "sparc", 75)
    assert late.steps is None
    assert page.tally([rival, rival, late]) == f"{rival.verdict} in 2, has no such budget in 1 of 3"


def rival(low, high):
    return Rival(RECALL, "sparc", "clip", 300, 300, Mean((low + high) / 2, low, high, ()))


def test_a_verdict_is_the_intervals():
    found = [rival(*bounds).verdict for bounds in ((0.001, 0.1), (-0.009, 0.1), (-0.011, 0.1), (-0.1, -0.001))]
    assert found == ["superior", "not inferior", "open", "inferior"]


def test_commands_that_differ_in_the_seed_alone_are_told_once(stored):
    commands = [f"wholegrain compete {methods} --seeds {seed} --out seed-{seed}" for methods, seed in (("clip", 2), ("clip", 0), ("sparc", 1))]
    told = Page(Comparison(replace(stored, facts=[stored.facts[0] | {"command": command} for command in commands])), Path()).made
    assert "`wholegrain compete clip --seeds N --out seed-N` for N = 0, 2; a machine" in told
    assert "`wholegrain compete sparc --seeds 1 --out seed-1`; a machine" in told
    assert told.count("compete") == 2


def test_gaps_from_a_method_are_drawn_the_same_from_the_same_results(comparison, tmp_path):
    page = Page(comparison, tmp_path)
    drawn = [(page.gaps(f"{n}", [RECALL], ["clip", "sparc", "holistic"]), (tmp_path / f"{n}.svg").read_bytes())[1] for n in (0, 1)]
    assert drawn[0] == drawn[1]
    page.gaps("less", [RECALL], ["clip", "sparc"])
    assert (tmp_path / "less.svg").read_bytes() != drawn[0]


@pytest.mark.slow
def test_the_published_pages_and_the_readmes_numbers_are_those_of_the_kept_results(tmp_path):
    docs = ROOT / "docs" / "results"
    shutil.copytree(docs / "data", tmp_path / "data")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    written = render(tmp_path, tmp_path / "README.md", tmp_path / "published.json")
    assert len(written) > 5
    for path in written:
        elsewhere = {"README.md": ROOT / "README.md", "published.json": ROOT / "src" / "wholegrain" / "assets" / "published.json"}
        committed = elsewhere.get(path.name, docs / path.name)
        assert_same_to_a_rounding(path.read_text(), committed.read_text(), f"{path.name}: run make results")


def assert_same_to_a_rounding(made, committed, advice):
    """The same text; a number may differ by one in its last place, since sums are rounded otherwise from machine to machine."""
    (words, numbers), (others, theirs) = split_numbers(made), split_numbers(committed)
    assert words == others, advice
    for number, other in zip(numbers, theirs, strict=True):
        last = Decimal(1).scaleb(min(Decimal(number).as_tuple().exponent, Decimal(other).as_tuple().exponent))
        assert number == other or ("." in number + other and abs(Decimal(number) - Decimal(other)) <= last), f"{number}, {other}: {advice}"


def split_numbers(text):
    return NUMBER.sub("#", text), NUMBER.findall(text)
