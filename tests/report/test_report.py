"""The report: the page is whole and safe, its marks and sentences follow from the items, its examples are what they are said to be."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from halves import make_model

from wholegrain.cli.main import main
from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.report import examples, tables
from wholegrain.report.dot_chart import dot_chart
from wholegrain.report.entry import Entry, read_history
from wholegrain.report.figures import Line, line_chart
from wholegrain.report.heatmaps import content_words, patch_maps
from wholegrain.report.report import Report, write_report
from wholegrain.report.summary import finding, summary
from wholegrain.towers import convert_head, save_model


@pytest.fixture(scope="module")
def dataset(halves):
    return halves


@pytest.fixture(scope="module")
def entries(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    (run / "run.json").write_text(json.dumps({"seed": 3, "data_hash": "abc", "command": "wholegrain train <x>"}))
    (run / "recipe.toml").write_text('name = "two"\n[optimiser]\nbatch = 8\n')
    rows = [{"step": n, "loss": 3.0 - n / 9, "loss/a": 2.0, "loss/b": 1.0 - n / 9, "images_per_s": 50.0} for n in range(5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 5, "lo')
    tasks = ("retrieval", "compositional", "grounding", "branches")
    one, two = make_model(dataset, 0), make_model(dataset, 1, branches=2)
    results = [evaluate(model, dataset, EvaluationOptions(progress=False), tasks=tasks) for model in (one, two)]
    return [Entry("one & only", None, one, results[0]), Entry("<b>two</b>", run, two, results[1])]


@pytest.fixture(scope="module")
def page(dataset, entries, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "deep" / "report.html"
    assert write_report(path, Report(entries, dataset, title="A <title>", notes=["A note."])) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags with their attributes; complains about tags that are not closed in order."""

    VOID = frozenset({"meta", "img", "line", "circle", "polyline", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_one_file_that_fetches_nothing(page):
    tags = Reader(page).tags
    sources = [value for _, attributes in tags for name, value in attributes.items() if name in ("src", "href", "srcset")]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in tags}
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]  # sorts tables
    assert not re.search(r"fetch\(|XMLHttp|import\(|https?:", page[page.index("<script>") :])
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    anchors = {attributes["href"][1:] for tag, attributes in tags if tag == "a"}
    assert anchors <= {attributes.get("id") for _, attributes in tags}


def test_pictures_have_texts_and_tables_have_headers(page):
    tags = Reader(page).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) > 30
    assert all(attributes.get("alt") for attributes in pictures)
    headers, drawings = ([attributes for tag, attributes in tags if tag == wanted] for wanted in ("th", "svg"))
    assert headers
    assert all(attributes.get("scope") in ("row", "col") for attributes in headers)
    assert drawings
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in drawings)


def test_texts_of_others_are_escaped(page):
    assert "<b>two" not in page
    assert "&lt;b&gt;two&lt;/b&gt;" in page
    assert "<here>" not in page
    words = " ".join(Reader(page).words)
    assert "A <title>" in words
    assert "A note." in words
    assert "wholegrain train <x>" in words


def test_every_part_is_there(page, entries):
    words = re.sub(r"\s+", " ", " ".join(Reader(page).words))
    wanted = [
        "Main figures",
        "Pairs by kind",
        "parts of the loss",
        "Speed",
        "Still wrong",
        "which branch answers",
        "nearest to each branch",
    ]
    for part in [*wanted, "takes for the truth", "did not find", "Provenance", "the whole recipe"]:
        assert part in words, part
    for entry in entries:
        for result in entry.results:
            assert re.sub(r"\s+", " ", result.protocol) in words


def test_heat_maps_are_left_out_without_models(dataset, entries, tmp_path):
    bare = [Entry(entry.name, None, None, entry.results) for entry in entries]
    text = write_report(tmp_path / "r.html", Report(bare, dataset)).read_text()
    assert 'class="heat"' not in text
    assert 'class="matrix' in text  # scores come from the results


def test_a_model_of_words_shows_each_word_on_its_own_picture_and_every_map_names_its_read_out(dataset, entries, tmp_path):
    model = convert_head(make_model(dataset, 0), "sparc")
    pair = [entries[0], Entry("words", None, model, entries[0].results)]
    item = next(iter(examples.twin_rows(entries[0].result("composition"))))
    (card,) = examples.twin_cards(pair, dataset, [item])
    assert {shown["read_out"] for shown in card["maps"]["words"]} == {"pooled"}
    assert card["words"]["one & only"] == []
    assert [row["picture"] for row in card["words"]["words"]] == [0, 1]
    for row, key, caption in zip(card["words"]["words"], card["keys"], card["captions"], strict=True):
        assert row["read_out"] == "token"
        phrases = content_words(caption)
        assert [w["word"] for w in row["words"]] == [caption[p.start : p.end] for p in phrases][: examples.MOST_WORDS]
        maps = patch_maps(model, [dataset.pixels(key)], phrases, read_out="token")[0]
        assert [w["high"] for w in row["words"]] == pytest.approx([float(m.max()) for m in maps][: examples.MOST_WORDS])
    text = write_report(tmp_path / "r.html", Report(pair, dataset)).read_text()
    assert "words of A" in " ".join(Reader(text).words)
    images = [dict(attrs)["alt"] for tag, attrs in Reader(text).tags if tag == "img" and "where" in dict(attrs).get("alt", "")]
    assert images
    assert all(re.search(r"read-out (pooled|token)$", alt) for alt in images)


def test_faults_are_named(dataset, entries, tmp_path):
    with pytest.raises(UserError, match="nothing to report"):
        write_report(tmp_path / "r.html", Report([Entry("a", None, None, [])], dataset))
    with pytest.raises(UserError, match="'one & only'"):
        write_report(tmp_path / "r.html", Report([entries[0], entries[0]], dataset))
    assert not list(tmp_path.iterdir())


def test_pictures_keep_their_shape(page):
    """Flex and grid stretch their items, so a photo beside a long text would become as high as the text."""
    (rules,) = re.findall(r"^img \{([^}]*)\}", page, re.M)
    assert "height: auto" in rules
    assert "align-self: start" in rules
    assert not re.search(r"img[^{}]*\{[^}]*(align-self: stretch|height: \d)", page)


# --- tables and sentences ------------------------------------------------------------------------------------------------


def result_of(values, metric="group_score", task="composition", group="", **columns):
    values = np.asarray(values, dtype=float)
    count = len(values)
    rows = {"item": [f"i{n}" for n in range(count)], "group": [group] * count, "cluster": [f"k{n}" for n in range(count)]}
    items = pa.table({**rows, "overall": [True] * count, metric: values, **columns})
    name = f"{group}/{metric}" if group else metric
    return TaskResult(task, "A protocol.", (Figure(name, values.mean(), 0.0, 1.0, count, 0.5, 0.4),), items)


def entry_of(name, *results):
    return Entry(name, None, None, list(results))


def test_marks_follow_the_paired_difference():
    base, better = np.zeros(40), np.ones(40)
    same = base.copy()
    same[0] = 1
    three = [entry_of(n, result_of(v)) for n, v in (("base", base), ("better", better), ("same", same))]
    cells = tables.main_comparison(three).cells(0)
    assert [cell.mark for cell in cells] == ["", "better", ""]
    assert [cell.best for cell in cells] == [False, True, False]
    assert cells[1].gap_value == "+100.0"
    turned = tables.main_comparison([three[1], three[0]]).cells(0)
    assert [cell.mark for cell in turned] == ["", "worse"]
    against_better = tables.main_comparison(three, reference=1).cells(0)
    assert [cell.mark for cell in against_better] == ["worse", "", "worse"]


def test_best_is_marked_only_where_it_can_be_told_apart():
    rng = np.random.default_rng(0)
    worse, good = (rng.random(400) < 0.2).astype(float), (rng.random(400) < 0.8).astype(float)
    nearly = good.copy()
    nearly[np.flatnonzero(good)[0]] = 0  # one item of 400 less: luck

    def best(*values):
        found = [entry_of(f"m{n}", result_of(v)) for n, v in enumerate(values)]
        return [cell.best for cell in tables.main_comparison(found).cells(0)]

    assert best(worse, good, nearly) == [False, True, True]
    assert best(good, nearly) == [False, False]  # nobody can be told apart
    assert best(worse, good) == [False, True]
    assert best(worse, good[:300]) == [False, False]  # other items cannot be compared
    assert tables.leaders([0.4, None, 0.9], lambda a, b: (0.2, 0.3)) == {2}
    assert tables.leaders([0.4, 0.9], lambda a, b: (0.2, 0.3), 0) == set()
    assert tables.leaders([0.4], lambda a, b: (0.2, 0.3)) == set()


def test_where_less_is_better_the_lower_one_wins():
    two = [entry_of(n, result_of(v, "hit_other", "grounding")) for n, v in (("a", np.ones(30)), ("b", np.zeros(30)))]
    cells = tables.main_comparison(two).cells(0)
    assert cells[1].mark == "better"
    assert cells[1].best


def test_other_items_are_not_compared():
    a, b = entry_of("a", result_of(np.zeros(30))), entry_of("b", result_of(np.ones(20)))
    assert tables.main_comparison([a, b]).cells(0)[1].difference is None


def test_weak_kinds_come_first():
    strong, weak = result_of(np.ones(9), "picks_caption", group="easy"), result_of(np.zeros(9), "picks_caption", group="hard")
    groups = [result_of(np.ones(9), group=g) for g in ("easy", "hard")]
    figures = tuple(f for result in (strong, weak, *groups) for f in result.figures)
    entry = entry_of("a", TaskResult("composition", "", figures, groups[0].items))
    columns = tables.kind_comparisons([entry])[0].columns
    assert [(column.title, column.weak) for column in columns] == [("hard", True), ("easy", False)]


def test_the_finding_names_the_largest_gain_and_the_largest_loss_and_the_telling_columns_are_those():
    rng, count = np.random.default_rng(0), 200

    def entry(name, *shares):
        return entry_of(name, result_of(np.ones(count) * 0.5), *(
            result_of((rng.random(count) < share).astype(float), "accuracy", "negatives", group) for group, share in zip("abc", shares, strict=True)
        ))  # fmt: skip

    def merged(one):
        parts = [r for r in one.results if r.task == "negatives"]
        items = pa.concat_tables([part.items.set_column(0, "item", pa.array([f"{n}{i}" for i in range(count)])) for n, part in enumerate(parts)])
        return entry_of(one.name, TaskResult("negatives", "A protocol.", tuple(f for part in parts for f in part.figures), items))

    two = [merged(entry("old", 0.1, 0.9, 0.5)), merged(entry("new", 0.9, 0.6, 0.5))]
    found = tables.kind_comparisons(two)
    said = finding(found)
    assert re.fullmatch(r"Against old, new gains most at “a” \([\d.]+% → [\d.]+%\) and loses most at “b” \([\d.]+% → [\d.]+%\)\.", said), said
    assert [column.title for column in found[0].telling.columns] == ["a", "b"]
    assert len(found[0].columns) == 3
    assert finding(tables.kind_comparisons(two[:1])).startswith("old is best at “b”")
    assert dot_chart(found[0]).count("<circle") == 6


def test_the_summary_says_whether_the_cost_was_equal(dataset, tmp_path):
    def run(name, steps):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.toml").write_text("[optimiser]\nbatch = 4\n")
        (folder / "metrics.jsonl").write_text(json.dumps({"step": steps - 1, "loss": 1.0}) + "\n")
        return Entry(name, folder, None, [result_of(np.zeros(5))])

    a, b, c = run("a", 3), run("b", 3), run("c", 9)
    assert "All were trained on equally many images: 3 steps of 4, 12 images." in summary([a, b], dataset, "test", [])
    assert any("not trained on equally many" in sentence for sentence in summary([a, c], dataset, "test", []))


def test_a_history_survives_missing_and_cut_files(entries, tmp_path):
    history = entries[1].history
    assert history.step_count == 5
    assert history.images == 40
    assert history.seed == 3
    assert read_history(tmp_path).step_count == 0


def test_a_chart_is_valid_and_thins_long_lines():
    long = Line("a & b", np.arange(5000.0), np.linspace(2, 1, 5000))
    text = line_chart(
        "Loss <1>", [long, Line("dot", np.array([3.0]), np.array([np.nan])), Line("c", np.array([1.0]), np.array([1.5]))]
    )
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    curves = [node for node in svg.iter() if node.tag.endswith("polyline")]
    assert len(curves) == 2  # nothing is drawn of a line without a finite point
    points = np.array([pair.split(",") for pair in curves[0].get("points").split()], dtype=float)
    assert len(points) == 200
    assert (np.diff(points[:, 1]) > 0).all()  # a falling line falls: y grows downward
    assert line_chart("x", []) == ""


# --- examples ---------------------------------------------------------------------------------------------------------------


def twins_of(groups, group_score):
    columns = {name: [0.1] * len(groups) for name in ("s00", "s01", "s10", "s11")}
    base = result_of(group_score, **columns)
    return TaskResult("composition", "", base.figures, base.items.set_column(1, "group", pa.array(groups)))


def test_twins_are_drawn_from_every_kind_and_are_what_they_are_said_to_be():
    groups = ["a"] * 20 + ["b"] * 20
    first, last = twins_of(groups, [0] * 10 + [1] * 10 + [0] * 20), twins_of(groups, [1] * 5 + [0] * 5 + [1] * 20 + [0] * 10)
    chosen = examples.choose_twins(first, last, repaired=4, missed=4)
    place = {name: [int(item[1:]) for item in items] for name, items in chosen.items()}
    assert all(n < 5 or 20 <= n < 30 for n in place["repaired"])
    assert all(5 <= n < 10 or n >= 30 for n in place["missed"])
    assert [sorted(groups[n] for n in numbers) for numbers in place.values()] == [["a", "a", "b", "b"]] * 2
    assert chosen == examples.choose_twins(first, last, repaired=4, missed=4)
    assert chosen != examples.choose_twins(first, last, repaired=4, missed=4, seed=1)
    assert examples.twin_flow(first, last) == {"repaired": 15, "broken": 0, "both": 10, "neither": 15, "all": 40}


def test_scores_say_which_cells_keep_to_their_side():
    scores = examples.Scores("m", ((0.5, 0.4), (0.6, 0.7)))
    assert not scores.group
    assert [[scores.right(i, j) for j in (0, 1)] for i in (0, 1)] == [[False, True], [False, True]]
    assert examples.Scores("m", ((0.50001, 0.5), (0.4, 0.6))).shown(0, 0) == "0.50001"
    assert not examples.Scores("m", ((0.5, 0.5), (0.4, 0.6))).group  # a tie is not told apart


def test_the_worst_negatives_are_mistakes_with_their_edits(dataset, entries):
    cards = examples.worst_negatives(entries, dataset, per_kind=3)
    items = entries[1].result("negatives").items
    margins = sorted(items["s_true"].to_numpy() - items["s_false"].to_numpy())
    found = sorted(dict(card["margins"])["<b>two</b>"] for card in cards)
    assert found == pytest.approx([m for m in margins[:3] if m < 0])
    for card in cards:
        assert "".join(text for how, text in card["pieces"] if how != "new") == card["true"]
        assert "".join(text for how, text in card["pieces"] if how != "old") == card["false"]


def test_the_picture_put_first_is_not_one_that_the_caption_is_true_of(dataset, entries):
    cards = examples.worst_retrievals(entries[0], dataset, "test", count=3)
    table = entries[0].result("retrieval").items
    ranks = table.filter(table["overall"])["image_retrieval_mean_rank"].drop_null().to_pylist()
    assert cards[0]["rank"] == max(ranks)
    assert len({card["key"] for card in cards}) == 3
    every = examples.worst_retrievals(entries[0], dataset, "test", count=1000)
    assert {card["key"] for card in every} == set(table.filter(pc.greater(table["image_retrieval_mean_rank"], 1))["cluster"].to_pylist())
    assert all(card["first"] and card["first"] != card["picture"] for card in cards)


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_command_evaluates_what_is_not_evaluated_and_keeps_it(dataset, tmp_path, monkeypatch, capsys):
    for seed, name in enumerate(("a", "b")):
        save_model(make_model(dataset, seed), tmp_path / name / "model")
    monkeypatch.chdir(tmp_path)
    command = ["report", "a", "b", "--data", str(dataset.folder), "--suite", "compositional", "--out", "r.html"]

    def run(*more):
        with pytest.raises(SystemExit) as end:
            main([*command, *more])
        return end.value.code

    assert run() == 0
    saved = tmp_path / "a" / "results" / f"{dataset.folder.name}-test" / "results.json"
    first = saved.stat().st_mtime_ns
    assert 'id="calibration"' not in (tmp_path / "r.html").read_text()
    assert run("--calibration") == 0
    assert 'id="calibration"' in (tmp_path / "r.html").read_text()
    assert saved.stat().st_mtime_ns == first  # taken as it was
    save_model(make_model(dataset, 7), tmp_path / "a" / "model")
    assert run() == 0
    assert saved.stat().st_mtime_ns != first  # the model is another one
    assert 'scope="row">a</th>' in (tmp_path / "r.html").read_text()
    assert run("--names", "x") == 2
    assert "1 names for 2 runs" in capsys.readouterr().err
