"""A competition: equal conditions, one table, and nothing done twice."""

import csv
import io
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_training import make_dataset, make_model

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, load_results
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.statistics.compare import mean_over_seeds
from wholegrain.evaluation.statistics.intervals import bootstrap_mean, bootstrap_over_seeds
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.locks import locked
from wholegrain.report.standings import Standing, Standings
from wholegrain.report.standings_page import write_standings_page
from wholegrain.towers.base_model import load_base
from wholegrain.towers.io import save_model
from wholegrain.towers.sources.small import SmallImageTower
from wholegrain.workflows.compete import compete
from wholegrain.workflows.entrants import Rules
from wholegrain.workflows.runs import Suite, evaluate_once

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compete")]  # one competition for all
RULES = Rules(
    "base",
    seeds=(0, 1),
    overrides=("--optimiser.steps=2", "--optimiser.batch=32", "--optimiser.lr=1e-3"),
    tasks=("retrieval", "composition"),
)


def quiet(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    build_scenes(folder, World(), SceneCounts(train=64, val=20, test=20, crowded=0, twins=8), workers=1)
    return folder


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    out = tmp_path_factory.mktemp("compete")
    return out, *compete(["clip", "negclip"], scenes, out, RULES, quiet)


def test_every_method_trains_with_the_same_steps_seeds_and_batches(finished):
    out, standings, _ = finished
    assert [row.name for row in standings.rows][:3] == ["start", "clip", "negclip"]
    for name in ("clip", "negclip"):
        for seed in (0, 1):
            assert json.loads((out / f"{name}-{seed}" / "run.json").read_text())["seed"] == seed
            lines = (out / f"{name}-{seed}" / "metrics.jsonl").read_text().splitlines()
            assert len([line for line in lines if '"loss"' in line]) == 2


def test_a_second_call_trains_nothing_and_gives_the_same_table(finished, scenes):
    out, standings, _ = finished
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again, _ = compete(["clip", "negclip"], scenes, out, RULES, quiet)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps
    assert again.as_csv() == standings.as_csv()


def test_results_of_other_settings_are_not_taken_for_these(finished, scenes):
    out, standings, _ = finished
    other, _ = compete(["clip", "negclip"], scenes, out, replace(RULES, roles=("overview",)), quiet)
    assert other.as_csv() != standings.as_csv()
    compete(["clip", "negclip"], scenes, out, RULES, quiet)


def test_results_of_another_split_are_measured_and_kept_beside(finished, scenes):
    out, standings, _ = finished
    other, _ = compete(["clip", "negclip"], scenes, out, replace(RULES, split="val"), quiet)
    assert other.as_csv() != standings.as_csv()
    assert load_results(out / "clip-0" / "val")[1]["split"] == "val"
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*-?/test/results.json")}
    assert len(stamps) == 4
    again, _ = compete(["clip", "negclip"], scenes, out, RULES, quiet)
    assert again.as_csv() == standings.as_csv()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_results_of_other_tasks_are_not_taken_for_these(scenes, tmp_path):
    model = load_base()
    first = evaluate_once(model, Dataset(scenes), tmp_path, Suite("val", ("retrieval",)), progress=False)
    second = evaluate_once(model, Dataset(scenes), tmp_path, Suite("val", ("retrieval", "composition")), progress=False)
    assert [[result.task for result in results] for results in (first, second)] == [["retrieval"], ["retrieval", "composition"]]
    with torch.no_grad():
        model.head.text.weight.neg_()
    third = evaluate_once(model, Dataset(scenes), tmp_path, Suite("val", ("retrieval", "composition")), progress=False)
    assert third[0].metrics != second[0].metrics, "another model"


def test_results_by_another_weight_of_the_grain_are_not_taken_for_these(scenes, tmp_path):
    model, suite = load_base(), Suite("val", ("retrieval",))
    found = [evaluate_once(WholeAndGrain(model, weight), Dataset(scenes), tmp_path, suite, progress=False)[0].metrics for weight in (0.0, 8.0)]
    assert found[0] != found[1]


def test_a_finished_run_of_another_recipe_is_refused_and_what_differs_is_said(finished, scenes):
    out, _, _ = finished
    with pytest.raises(UserError, match=r"clip-0 was made with optimiser\.steps 2, not 3; ask"):
        compete(["clip", "negclip"], scenes, out, replace(RULES, overrides=("--optimiser.steps=3", *RULES.overrides[1:])), quiet)


def test_a_finished_run_of_another_start_or_other_data_is_refused(finished, scenes, tmp_path):
    out, _, _ = finished
    model = load_base()
    with torch.no_grad():
        model.log_scale += 0.1
    save_model(model, tmp_path / "model")
    with pytest.raises(UserError, match=r"clip-0 was made with another starting model; ask"):
        compete(["clip"], scenes, out, replace(RULES, model=str(tmp_path / "model")), quiet)
    build_scenes(tmp_path / "data", World(), SceneCounts(train=32, val=20, test=20, crowded=0, twins=8), workers=1)
    with pytest.raises(UserError, match=r"clip-0 was made with other data \(content hash"):
        compete(["clip"], tmp_path / "data", out, RULES, quiet)


def test_the_table_holds_means_over_seeds_and_paired_differences(finished):
    out, standings, _ = finished
    rows = list(csv.DictReader(io.StringIO((out / "standings.csv").read_text())))
    row = next(r for r in rows if r["method"] == "negclip" and r["figure"] == "image_retrieval_recall@1")
    values = [
        {seed: load_results(out / f"{name}-{seed}" / "test")[0][0].metrics["image_retrieval_recall@1"] for seed in (0, 1)}
        for name in ("negclip", "clip")
    ]
    assert float(row["value"]) == pytest.approx(np.mean(list(values[0].values())), abs=1e-5)
    assert float(row["difference"]) == pytest.approx(np.mean([values[0][s] - values[1][s] for s in (0, 1)]), abs=1e-5)
    assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
    for text in (standings.as_markdown(), standings.as_latex()):
        assert "negclip" in text
        assert "clip" in standings.note


def test_the_page_has_every_figure_with_interval_difference_and_seeds(finished):
    out, standings, _ = finished
    page = (out / "standings.html").read_text(encoding="utf-8")
    assert page.count('<tr><th scope="row">negclip') == -(-len(standings.columns) // 6)
    for (name, column), cell in standings.cells.items():
        assert column.title in page
        shown = [f"{100 * cell.mean.low:.1f} – {100 * cell.mean.high:.1f}", *(f"{100 * v:.1f}" for v in cell.mean.by_seed)]
        if cell.difference is not None:
            shown.append(
                f"{100 * cell.difference.value:+.1f} ({100 * cell.difference.low:+.1f} to {100 * cell.difference.high:+.1f})".replace("-", "−")
            )
        assert all(text in page for text in shown), name
    assert "src=" not in page  # nothing is fetched
    assert page.count("<table") == page.count("</table>")


def test_what_cannot_take_part_is_said_and_the_others_go_on(scenes, tmp_path):
    (tmp_path / "roles.toml").write_text('[[terms]]\nloss = "clip"\n[data]\ncaptions = [{ roles = ["nowhere"] }]\n')
    rules = Rules("base", overrides=RULES.overrides, tasks=("retrieval",))
    standings, left_out = compete(["clip", str(tmp_path / "roles.toml")], scenes, tmp_path / "out", rules, quiet)
    assert [row.name for row in standings.rows] == ["start", "clip"]
    assert "nowhere" in left_out["roles"]
    assert "nowhere" in (tmp_path / "out" / "standings.md").read_text()
    with pytest.raises(UserError, match="nosuch"):
        compete(["nosuch"], scenes, tmp_path / "other", rules, quiet)


WRONG = {
    "There is no packaged recipe": (["clip", "nosuch"], {}),
    "[Uu]nknown key": (["clip", "negclip"], {"overrides": ("--optimiser.nothing=1",)}),
    "has no split 'nosuch'": (["clip"], {"split": "nosuch"}),
    "no task or suite 'nosuch'": (["clip"], {"tasks": ("nosuch",)}),
    "no role 'nosuch'": (["clip"], {"roles": ("nosuch",)}),
    "Two of the recipes have one name": (["clip", "scenes/clip"], {}),
    "Two of the seeds are": (["clip"], {"seeds": (1, 1)}),
    "Two of the rates are": (["clip"], {"rates": (1e-3, 0.001)}),
    "--seconds is nan": (["clip"], {"seconds": float("nan")}),
    "needs a seed": (["clip"], {"seeds": ()}),
    "lr": (["clip"], {"rates": (1e-3, -1.0)}),
}


@pytest.mark.parametrize("said", WRONG)
def test_mistakes_are_refused_before_anything_is_trained_or_written(scenes, tmp_path, said):
    recipes, changed = WRONG[said]
    with pytest.raises(UserError, match=said):
        compete(recipes, scenes, tmp_path / "out", replace(RULES, **changed), quiet)
    assert not (tmp_path / "out").exists()


def test_rates_without_a_split_to_judge_by_are_refused_before_anything_is_trained(tmp_path):
    data = make_dataset(tmp_path / "data", splits=("train", "test")).folder
    with pytest.raises(UserError, match="no split val"):
        compete(["clip"], data, tmp_path / "out", replace(RULES, rates=(1e-3,)), quiet)
    assert not (tmp_path / "out").exists()


def test_two_competitions_do_not_share_a_folder(scenes, tmp_path):
    with locked(tmp_path, "a competition"), pytest.raises(UserError, match="a competition"):
        compete(["clip"], scenes, tmp_path, RULES, quiet)


def test_a_model_from_scratch_is_measured_once(tmp_path):
    dataset = make_dataset(tmp_path / "data", splits=("train", "test"))
    sizes = "image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,context=32,width=8"
    rules = Rules(f"small:{sizes}", overrides=("--optimiser.steps=1", "--optimiser.batch=8"), tasks=("retrieval",))
    first, _ = compete(["clip"], dataset.folder, tmp_path / "out", rules, quiet)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/test/results.json")}
    torch.rand(3)
    again, _ = compete(["clip"], dataset.folder, tmp_path / "out", rules, quiet)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.as_csv() == first.as_csv()


def test_frozen_towers_see_nothing_twice(tmp_path):
    dataset = make_dataset(tmp_path / "data", splits=("train", "val", "test"))
    save_model(make_model(dataset), tmp_path / "model")
    frozen = ("--model.tune_image=none", "--model.tune_text=none", "--data.crop_scale=[1.0, 1.0]")
    rules = Rules(str(tmp_path / "model"), overrides=("--optimiser.steps=4", "--optimiser.batch=8", *frozen))
    calls = []
    with pytest.MonkeyPatch.context() as patched:
        for tower in (SmallImageTower, type(make_model(dataset).text_tower)):
            forward = tower.forward
            patched.setattr(tower, "forward", lambda *given, forward=forward: (calls.append(1), forward(*given))[1])
        first, _ = compete(["clip"], dataset.folder, tmp_path / "out", rules, quiet)
        once = len(calls)
        both, _ = compete(["clip", "negclip"], dataset.folder, tmp_path / "out", rules, quiet)
        assert len(calls) - once == 1, "negclip's texts, its negatives among them"
        alone, _ = compete(["negclip"], dataset.folder, tmp_path / "alone", rules, quiet)
    kept = next((tmp_path / "out" / "features").iterdir()).name
    assert kept.partition("-")[0] in ("images", "texts", "image", "text")
    assert [result.metrics for result in both.rows[2].results[0]] == [result.metrics for result in alone.rows[1].results[0]]
    assert "negatives" in {result.task for result in both.rows[1].results[0]}, "the data have a sidecar of them"
    assert first.rows[1].results[0][0].metrics == both.rows[1].results[0][0].metrics


def test_every_method_tries_the_same_rates_and_keeps_its_best(scenes, tmp_path):
    rules = Rules("base", rates=(1e-4, 1e-2), overrides=RULES.overrides[:2], tasks=("retrieval",))
    compete(["clip"], scenes, tmp_path, rules, quiet)
    tried = json.loads((tmp_path / "tuning" / "clip.json").read_text())
    best = max(tried, key=lambda rate: tried[rate])
    assert set(tried) == {"0.0001", "0.01"}
    assert f"lr = {float(best)}" in (tmp_path / "clip-0" / "recipe.toml").read_text()


def test_at_equal_time_the_number_of_steps_follows_the_speed(scenes, tmp_path, monkeypatch):
    clock = itertools.count(step=0.25)
    rules = Rules("base", seconds=1.0, overrides=RULES.overrides[1:], tasks=("retrieval",))
    with monkeypatch.context() as patched:
        patched.setattr("wholegrain.workflows.competition.time", SimpleNamespace(perf_counter=lambda: next(clock)))
        compete(["clip"], scenes, tmp_path, rules, quiet)
    lines = [json.loads(line) for line in (tmp_path / "clip-0" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "loss" in line]) == 4  # one second, a quarter of a second each
    (tmp_path / "clip-0" / "finished").unlink()  # interrupted: it goes on to the length that was measured
    compete(["clip"], scenes, tmp_path, rules, quiet)
    assert len((tmp_path / "clip-0" / "metrics.jsonl").read_text().splitlines()) == 4
    with pytest.raises(UserError, match=r"was made with seconds 1, not 2; ask"):
        compete(["clip"], scenes, tmp_path, replace(rules, seconds=2.0), quiet)


def test_one_seed_gives_the_interval_over_images_alone():
    values = np.random.default_rng(0).random((1, 200))
    clusters = np.arange(200) // 2
    low, high = bootstrap_over_seeds(values, clusters)
    one_low, one_high = bootstrap_mean(values[0], clusters, shares=False)
    assert (low, high) == (pytest.approx(float(one_low)), pytest.approx(float(one_high)))


def test_seeds_widen_the_interval_and_pairing_narrows_it(finished):
    out, _, _ = finished
    noise = np.random.default_rng(1).random(300)
    apart = np.stack([noise * 0.1, noise * 0.1 + 0.5])
    low, high = bootstrap_over_seeds(apart, np.arange(300))
    one_low, one_high = bootstrap_over_seeds(apart[:1], np.arange(300))
    assert high - low > 5 * (one_high - one_low)
    results = [load_results(out / f"clip-{seed}" / "test")[0][0] for seed in (0, 1)]
    same = mean_over_seeds(results, "image_retrieval_recall@1", minus=results)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def hits(values):
    items = [f"i{n}" for n in range(len(values))]
    rows = Rows(items, [""] * len(items), items, {"acc1": np.asarray(values, dtype=float)})
    return [TaskResult("zero_shot", "A protocol.", tuple(figures(rows)), table(rows))]


def test_bold_is_what_nothing_can_be_told_apart_from(tmp_path):
    rng = np.random.default_rng(0)
    low, high = rng.random(300) < 0.3, rng.random(300) < 0.8
    other = high.copy()
    other[np.flatnonzero(high)[0]] = False
    rows = [Standing("start", [hits(low)]), Standing("a", [hits(high)] * 2), Standing("b", [hits(other)] * 2)]
    standings = Standings(rows, "a")
    (column,) = standings.columns
    assert standings.best[column] == {"a", "b"}  # one item of 300 is luck
    assert standings.cells["start", column].difference.high < 0  # one seed against two
    page = write_standings_page(standings, tmp_path / "s.html").read_text()
    assert page.count('class="best"') == 2
    assert Standings(rows[1:], "a").best[column] == set()
    assert 'class="best"' not in write_standings_page(Standings(rows[1:], "a"), tmp_path / "t.html").read_text()


def test_the_time_of_a_step_is_a_median_with_quartiles(tmp_path):
    rows = [Standing("a", [hits([1, 0])], [1.0, 2.0, 3.0]), Standing("b", [hits([1, 0])], [2.0, 4.0, 90.0])]
    standings = Standings(rows, "a")
    assert standings.time_of(rows[1]) == "2.00x"
    assert standings.quartiles_of(rows[1]) == "1.50–23.50"
    assert standings.quartiles_of(Standing("c", [hits([1, 0])])) == ""
    page = write_standings_page(standings, tmp_path / "s.html").read_text()
    assert "1.50–23.50" in page
    assert "what else the machine did" in page
    row = list(csv.DictReader(io.StringIO(standings.as_csv())))[1]
    assert [float(row[f"seconds_{end}"]) for end in ("per_step", "first_quartile", "third_quartile")] == [4, 3, 47]


def test_standings_refuse_two_rows_of_one_name():
    with pytest.raises(UserError, match="one row for each name"):
        Standings([Standing("a", []), Standing("a", [])], "a")
