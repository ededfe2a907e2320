"""Explanations: their maps are the read-outs', each word its own, and what a model cannot give is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from house_models import small
from PIL import Image

from wholegrain.errors import UserError
from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.evaluation.read_outs.registry import READ_OUTS
from wholegrain.report import explanation, heatmaps
from wholegrain.report.explanation import explain
from wholegrain.report.heatmaps import overlay, patch_maps
from wholegrain.report.pictures import seen_part
from wholegrain.towers import convert_head

CAPTION = "a red cup left of a blue hat"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def shaken(head="plain"):
    """A small model with this head, in which nothing is zero by chance."""
    model = convert_head(small(), head).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("head", ["plain", "sparc", "flair", "fusion"])
def test_maps_are_those_of_the_read_outs(head):
    model = shaken(head)
    found = explain(model, PIXELS, CAPTION)
    assert found.words == tuple(CAPTION.split())
    assert found.phrases == ("a red cup", "a blue hat")
    assert found.grid == (4, 4)
    assert found.read_out == model.read_out
    assert {*found.values, *found.left_out} == {*READ_OUTS}
    assert not {*found.values} & {*found.left_out}
    for name, values in found.values.items():
        assert values.shape == (10, 16)
        in_context = name in ("token", "token_cosine") or (name, head) == ("attention", "sparc")
        hat = Phrase(CAPTION, 25, 28) if in_context else Phrase("hat")
        phrase = Phrase(CAPTION, 0, 9) if in_context else Phrase("a red cup")
        expected = patch_maps(model, [PIXELS], [hat, phrase], read_out=name)[0].reshape(2, 16)
        np.testing.assert_allclose(values[[7, 8]], expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(found.maps, found.values[found.read_out][:8])
    np.testing.assert_array_equal(found.phrase_maps, found.values[found.read_out][8:])


def test_a_large_picture_is_shrunk_once_for_all_of_its_maps(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 700, 3), dtype=np.uint8)
    found = explain(shaken(), pixels, CAPTION, ["pooled"])
    values = found.values["pooled"]
    scale = float(values.min()), float(values.max())
    expected = [overlay(pixels, row.reshape(found.grid), scale=scale, seen=found.seen, side=192) for row in values]
    seen = []
    for module in (explanation, heatmaps):
        monkeypatch.setattr(module, "seen_part", lambda given, *more: seen.append(given.shape) or seen_part(given, *more))
    np.testing.assert_array_equal([picture for _, _, picture in found.drawn("pooled")], expected)
    assert sum(shape == pixels.shape for shape in seen) == 1


def test_only_read_outs_that_are_named():
    model = shaken()
    assert list(explain(model, PIXELS, CAPTION, ["gradient", "pooled"]).values) == ["gradient", "pooled"]
    with pytest.raises(UserError, match="h_v"):
        explain(model, PIXELS, CAPTION, ["h_v"])
    with pytest.raises(UserError, match="did you mean"):
        explain(model, PIXELS, CAPTION, ["poled"])


def test_branches_are_cosines_of_each(tmp_path):
    found = explain(shaken("branches"), PIXELS, CAPTION)
    assert found.branches is not None
    assert found.branches.shape[0] == 3
    assert found.score == pytest.approx(float(found.branches[0].mean()), abs=1e-5)  # the model scores by their mean
    assert "branch 1" in found.to_html(tmp_path / "why.html").read_text()
    assert explain(shaken(), PIXELS, CAPTION).branches is None


def test_words_behind_the_end_of_the_context_are_said_and_not_shown():
    found = explain(shaken(), PIXELS, f"{CAPTION} and a green cup left of a hat")
    assert (*found.words, *found.unread) == (*CAPTION.split(), *["and", "a", "green", "cup", "left", "of", "a", "hat"])
    assert found.unread
    assert found.maps.shape[0] == len(found.words)


def test_the_finding_names_the_phrases_with_the_greatest_and_the_least_map():
    found = explain(shaken(), PIXELS, CAPTION)
    most = dict(zip(found.phrases, found.phrase_maps.max(axis=1), strict=True))
    first, last = max(most, key=most.__getitem__), min(most, key=most.__getitem__)
    assert found.finding().startswith(f"“{first}” stands out most (")
    assert f"“{last}” least (" in found.finding()
    assert first != last


def test_a_caption_without_words_is_refused():
    for caption in ("", " . ! "):
        with pytest.raises(UserError, match="no words"):
            explain(shaken(), PIXELS, caption)


def test_files_hold_every_word_and_odd_captions_do_no_harm(tmp_path):
    caption = "a $red$ cup & <b>hat</b> 猫"
    found = explain(shaken(), PIXELS, caption, ["pooled"])
    png, page = found.save(tmp_path / "new" / "why.png"), found.to_html(tmp_path / "why.html").read_text()
    assert Image.open(png).size[0] > 400
    assert "<b>hat</b>" not in page
    assert "a $red$ cup &amp; &lt;b&gt;hat&lt;/b&gt; 猫" in page
    assert page.count("data:image") == 1 + len(found.words) + 2 * len(found.phrases)  # phrases at the top, too
    assert found._repr_png_().startswith(b"\x89PNG")
    assert found._repr_html_().count("data:image") == 1 + len(found.words) + len(found.phrases)
    with pytest.raises(UserError, match="it has pooled"):
        found.save(tmp_path / "other.png", ["token"])
    assert not (tmp_path / "other.png").exists()
