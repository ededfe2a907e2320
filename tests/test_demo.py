"""The demo, small: it runs from the shipped base to the report, and an interrupted one goes on without doing anything twice."""

import io
import json

import pytest
from rich.console import Console

from wholegrain.app.base import base_folder, load_base, load_weak_kinds
from wholegrain.app.demo import METHODS, Size, demo, failed_twin
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.evaluation.result import load_results
from wholegrain.objectives.recipe import load_recipe

TINY = Size(SceneCounts(train=300, val=30, test=40, crowded=0, twins=12), steps=2, methods=("clip", "ce_clip", "holistic"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    demo(out, size=TINY, console=Console(file=io.StringIO(), width=160))
    return out


def test_the_report_and_every_method_are_there(folder):
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("CLIP", "CE-CLIP", "Holistic", "base"):
        assert f">{name}<" in page or name in page
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


def test_act_one_shows_a_pair_that_the_base_gets_wrong(folder):
    dataset = Dataset(folder / "scenes")
    found = load_results(folder / "runs" / "base-twins")[0][0]
    twin = failed_twin(found, dataset, load_weak_kinds())
    row = next(r for r in found.items.to_pylist() if r["item"] == twin.item and r["group"] == twin.kind)
    assert row["group_score"] == 0


def test_the_base_knows_its_world():
    origin = json.loads((base_folder() / "origin.json").read_text())
    assert origin["world"]["hash"] == World().hash
    with pytest.raises(UserError, match="wholegrain base"):
        load_base(World(glyphs="B"))


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_draw_the_same_captions_and_take_the_same_steps(method):
    clip, other = load_recipe("scenes/clip"), load_recipe(f"scenes/{method}")
    assert other.data.captions == clip.data.captions
    assert other.optimiser == clip.optimiser
    assert not set(other.data.negatives.kinds) & {"count", "swap_fill"}
