"""The base model's making: crops of single objects; its gates, whose supervised reader finds what is drawn, and nothing that is not."""

import json

import numpy as np
import pytest
import torch
from base_model.crops import crop_regions
from base_model.gates import TWIN_ATTRIBUTES, attribute_gates, legibility_gates
from base_model.legibility import Legibility, legibility
from base_model.make import make_base
from base_model.probes import Reading, read_attributes

from wholegrain.data.scenes import draw as drawing
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.glyphs import GLYPHS, mask
from wholegrain.data.scenes.twins import TWIN_KINDS
from wholegrain.data.scenes.world import FILLS, SIZES, World
from wholegrain.features import ImageFeatures
from wholegrain.towers import load_model
from wholegrain.towers.base_model import load_base

FEW = ("heart", "star", "anchor", "square")


@pytest.fixture
def few_nouns(monkeypatch):
    """The world with four nouns: enough for a reader that learns in seconds."""
    monkeypatch.setitem(GLYPHS, "A", {noun: GLYPHS["A"][noun] for noun in FEW})
    return World()


def test_the_reader_names_silhouettes_that_differ_and_leaves_the_random_state_alone(few_nouns):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    read = legibility(few_nouns, train=1200, test=300, epochs=2, batch=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert read.mean > 0.9
    assert set(read.by_noun) == set(FEW)
    assert set(read.by_size) == set(SIZES)
    assert set(read.by_fill) == set(FILLS)


def test_two_nouns_drawn_alike_are_found_out(few_nouns, monkeypatch):
    monkeypatch.setattr(drawing, "mask", lambda noun, *how: mask("star" if noun == "heart" else noun, *how))
    read = legibility(few_nouns, train=1200, test=300, epochs=2, batch=32)
    alike = np.array([read.by_noun["star"], read.by_noun["heart"]])
    assert alike.mean() < 0.65
    assert min(read.by_noun[noun] for noun in FEW[2:]) > 0.85
    assert read.worst[0] in ("star", "heart")
    assert not any(gate.passed for gate in legibility_gates(read))


def test_one_illegible_noun_fails_its_gate_alone():
    mean, worst = legibility_gates(Legibility(0.97, {"key": 0.94, "star": 1.0}, {}, {}))
    assert mean.passed
    assert not worst.passed
    assert worst.value == "key: 94.0%"


def test_what_twins_differ_in_must_be_read_and_the_rest_is_only_reported():
    readings = {"fill": Reading(0.94, 0.34), "colour": Reading(0.99, 0.1), "number": Reading(0.7, 0.69)}
    assert [gate.passed for gate in attribute_gates(readings)] == [False, True, True]
    assert set(TWIN_ATTRIBUTES) <= set(TWIN_KINDS)


class _Stub:
    """Patches are their pictures' mean colours: they hold colours, and neither fills nor how many things there are."""

    preprocess = load_base().preprocess

    def encode_images(self, pixels_BCHW, needs):
        cells_BCRS = torch.nn.functional.avg_pool2d(pixels_BCHW.float() / 255, 8)
        patches_BPD = cells_BCRS.flatten(2).transpose(1, 2)
        return ImageFeatures(patches_BPD.mean(1), patches_BPD=patches_BPD, grid=(8, 8))


def test_a_probe_reads_what_features_hold_and_nothing_else():
    read = read_attributes(_Stub(), World(), train=300, test=100)
    assert set(read) == {"colour", "fill", "size", "ground", "texture", "style", "number"}
    assert read["colour"].share > read["colour"].commonest + 0.3
    assert read["ground"].share > 0.7
    assert abs(read["style"].share - read["style"].commonest) < 0.15


def test_region_crops_show_their_object(tmp_path):
    scenes = build_scenes(tmp_path / "scenes", World(), SceneCounts(12, 0, 0, 0, 0), workers=1)
    crops = crop_regions(scenes, tmp_path / "crops", side=32)
    wanted = sum(len(r.regions) for r in scenes.records("train"))
    assert 0 < len(crops) <= wanted
    for record in crops.records("train"):
        assert record.size == (32, 32)
        assert {c.role for c in record.captions} == {"phrase"}
        assert len({c.text.rsplit(" ", 1)[-1] for c in record.captions}) == 1
        assert crops.pixels(record.key).std() > 1
    again = crop_regions(scenes, tmp_path / "again", side=32)
    assert again.content_hash == crops.content_hash


@pytest.mark.slow
def test_a_base_is_made_in_two_stages_and_says_how(tmp_path):
    made = make_base(tmp_path / "base", world=World(), work=tmp_path / "work", counts=SceneCounts(140, 8, 0, 0, 4), steps=(1, 1))
    origin = json.loads((made / "origin.json").read_text())
    assert origin["command"] == "PYTHONPATH=tools python -m base_model OUT --glyphs A --crop-steps 1 --steps 1 --seed 0"
    assert origin["world"]["hash"] == World().hash
    assert [(tmp_path / "work" / run / "finished").exists() for run in ("run-crops", "run-scenes")] == [True, True]
    assert load_model(str(made)).preprocess.size == World().size
