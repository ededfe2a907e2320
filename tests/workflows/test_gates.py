"""The gates of the scenes: the supervised reader finds what is drawn, and nothing that is not."""

import numpy as np
import pytest
import torch

from wholegrain.data.scenes import draw as drawing
from wholegrain.data.scenes.glyphs import GLYPHS, mask
from wholegrain.data.scenes.world import FILLS, SIZES, World
from wholegrain.workflows.gates import legibility_gates
from wholegrain.workflows.legibility import Legibility, legibility

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
