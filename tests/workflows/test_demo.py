"""The demo, small: it runs from the shipped base to the report, and an interrupted one goes on without doing anything twice."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts
from wholegrain.data.scenes.twins import TRANSFER_KINDS
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.evaluation.result import load_results
from wholegrain.objectives.recipe import load_recipe
from wholegrain.report.entry import Entry
from wholegrain.towers.base_model import load_base, load_weak_kinds
from wholegrain.towers.io import base_folder
from wholegrain.workflows.demo import BOUND, METHODS, ORDERED, WEIGHT, Size, demo, failed_twin, show_repaired, told_apart

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]  # one demo for all
TINY = Size(SceneCounts(train=300, val=30, test=40, crowded=0, twins=12), steps=2, methods=("clip", "wholegrain"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo(out, size=TINY, console=Console(file=io.StringIO(), width=160))
    return out


def test_the_report_and_every_method_are_there(folder):
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("CLIP", "Wholegrain", "base", "base + grain"):
        assert f">{name}<" in page, name
    for method in TINY.methods:
        results, meta = load_results(folder / "runs" / method / "test")
        assert {"retrieval", "composition", "grounding"} <= {r.task for r in results}
        assert meta["content_hash"] == Dataset(folder / "scenes").content_hash


def test_a_second_call_repeats_nothing_and_prints_the_same_table(folder):
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    out = io.StringIO()
    demo(folder, size=TINY, console=Console(file=out, width=160))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == stamps
    assert "chance" in out.getvalue()
    assert "runs/latest" not in out.getvalue()


def test_a_demo_of_another_size_or_seed_is_not_taken_for_this_one(folder):
    larger = Size(SceneCounts(train=400, val=30, test=40, crowded=0, twins=12), steps=2, methods=TINY.methods)
    with pytest.raises(UserError, match=r"scenes were drawn with train 300, not 400; choose"):
        demo(folder, size=larger, console=Console(file=io.StringIO()))
    with pytest.raises(UserError, match=r"clip was made with optimiser\.steps 2, not 3; ask"):
        demo(folder, size=replace(TINY, steps=3), console=Console(file=io.StringIO()))


def composition_of(folder, name):
    return next(result for result in load_results(folder / "runs" / name)[0] if result.task == "composition")


def test_act_one_shows_a_pair_that_one_vector_gets_wrong_and_the_grain_right(folder):
    dataset, whole, grain = Dataset(folder / "scenes"), composition_of(folder, "base"), composition_of(folder, "base-grain")
    right = {row["item"] for row in grain.items.to_pylist() if row["group"] == BOUND and row["group_score"]}
    twin = failed_twin(whole, dataset, (BOUND,), right)
    row = next(r for r in whole.items.to_pylist() if r["item"] == twin.item and r["group"] == twin.kind)
    assert row["group_score"] == 0
    assert twin.item in right
    assert failed_twin(whole, dataset, load_weak_kinds(), ("no such item",)).kind in load_weak_kinds()


def test_the_grain_repairs_colours_and_not_order_without_training(folder):
    """What the demo says before anything is trained."""
    whole, grain = composition_of(folder, "base"), composition_of(folder, "base-grain")
    gain = {k: grain.figure(f"{k}/group_score").value - whole.figure(f"{k}/group_score").value for k in (BOUND, ORDERED)}
    assert gain[BOUND] > 0.4
    assert abs(gain[ORDERED]) < 0.2


def entry_of(folder, method):
    run = folder / "runs" / method
    return Entry(method, run, str(run / "model"), load_results(run / "test")[0])


def test_a_pair_counts_as_told_apart_only_if_all_four_choices_are_right(folder):
    rows = entry_of(folder, "clip").result("composition").items.to_pylist()
    for kind in {row["group"] for row in rows}:
        right = {row["item"] for row in rows if row["group"] == kind and row["text_score"] and row["image_score"]}
        assert told_apart(entry_of(folder, "clip"), kind) == right
    assert any(row["group_score"] for row in rows)
    assert not all(row["group_score"] for row in rows)


def test_the_pair_is_shown_repaired_only_by_a_model_that_repairs_it(folder):
    dataset, entries = Dataset(folder / "scenes"), [entry_of(folder, method) for method in ("wholegrain", "clip")]
    twins = [twin for twin in dataset.twins if twin.split == "test"]
    right = {kind: told_apart(entries[1], kind) for kind in {twin.kind for twin in twins}}
    for wanted, sentence in ((True, "Told apart by clip"), (False, "No method repairs this pair")):
        twin = next(twin for twin in twins if right[twin.kind] and (twin.item in right[twin.kind]) == wanted)
        out = io.StringIO()
        show_repaired(entries, dataset, twin, Console(file=out, width=200))
        assert sentence in out.getvalue()


def test_the_base_knows_its_world():
    origin = json.loads((base_folder() / "origin.json").read_text())
    assert origin["world"]["hash"] == World().hash
    with pytest.raises(UserError, match="make a base for it as docs/base"):
        load_base(World(glyphs="B"))


def test_the_base_is_scored_with_the_weight_that_the_recipe_trains_for():
    assert load_recipe("scenes/wholegrain").model.head_settings["weight"] == WEIGHT


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_draw_the_same_captions_and_take_the_same_steps(method):
    clip, other = load_recipe("scenes/clip"), load_recipe(f"scenes/{method}")
    assert other.data.captions == clip.data.captions
    assert other.optimiser == clip.optimiser
    assert not set(other.data.negatives.kinds) & set(TRANSFER_KINDS)
