"""Heat maps and the terminal: the cosines are right, the colours say what they should, phrases find their objects."""

import io

import numpy as np
import pytest
from eval_fakes import FakeDataset, FakeModel, Worded, record, vector
from rich.console import Console

from wholegrain.data.record import Twin
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.report.heatmaps import content_phrases, content_words, overlay, own_region, patch_maps, region_mask
from wholegrain.report.terminal import half_blocks, show_twin, telling_phrase, twin_scores

REGIONS = (((2, 4, 10, 12), "a red cup"), ((20, 20, 30, 30), "a blue star"))


def model_with_patches():
    """Patch p of picture key is ``vector(key p)``, its length p + 1, in a grid of 2 x 3."""
    import torch

    def image(key):
        patches = torch.stack([vector(f"{key} {p}") * (p + 1) for p in range(6)])
        return {"pooled_BD": vector(key), "patches_BPD": patches, "grid": (2, 3)}

    return FakeModel(image, vector)


def pixels_of(number):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0] = number
    return pixels


def test_a_map_is_the_cosine_in_the_order_of_the_grid():
    (found,) = patch_maps(model_with_patches(), [pixels_of(4)], ["a cup", "a star"])
    assert found.shape == (2, 2, 3)
    expected = [[float(vector(text) @ vector(f"key00004 {p}")) for p in range(6)] for text in ("a cup", "a star")]
    np.testing.assert_allclose(found.reshape(2, 6), expected, atol=1e-6)


def test_maps_of_many_pictures_do_not_depend_on_the_batch():
    model, pictures = model_with_patches(), [pixels_of(n) for n in range(5)]
    np.testing.assert_allclose(
        patch_maps(model, pictures, ["x", "y"], batch=2), patch_maps(model, pictures, ["x", "y"]), atol=1e-6
    )


def test_a_words_map_is_of_its_own_token():
    import torch

    patches = torch.stack([vector(f"ground {p}", 64) for p in range(6)])
    patches[2] = 3 * vector("red", 64)
    model = Worded(lambda key: {"pooled_BD": patches.mean(0), "patches_BPD": patches, "grid": (2, 3)})
    words = content_words("a red cup")
    red, cup = patch_maps(model, [pixels_of(1)], words, read_out="token")[0].reshape(2, 6)
    np.testing.assert_allclose(red, patches @ vector("red", 64), atol=1e-5)
    np.testing.assert_allclose(cup, patches @ vector("cup", 64), atol=1e-5)
    assert red.argmax() == 2
    with pytest.raises(NotSupportedError, match="h_v"):
        patch_maps(model, [pixels_of(1)], words, read_out="h_v")


def test_a_model_without_patches_says_so():
    with pytest.raises(NotSupportedError):
        patch_maps(FakeModel(vector, vector), [pixels_of(1)], ["a cup"])


@pytest.mark.parametrize(
    ("caption", "nouns", "phrases"),
    [
        ("a small red cup to the left of the star", (), ["a small red cup", "the star"]),
        ("here a yellow umbrella lies under a blue club", ("umbrella", "club"), ["a yellow umbrella", "a blue club"]),
        ("two cups standing tall, a dog", ("cup", "dog"), ["two cups", "a dog"]),
        ("a Dog and a dog", (), ["a dog"]),
        ("the", (), []),
    ],
)
def test_phrases_are_runs_of_content_words(caption, nouns, phrases):
    assert content_phrases(caption, nouns) == phrases


def test_a_phrase_finds_its_own_region_only():
    it = record(0, ["x"], regions=(*REGIONS, ((0, 0, 2, 2), "a green cup")))
    assert own_region(it, "the small red cup").box == REGIONS[0][0]
    assert own_region(it, "a star").box == REGIONS[1][0]
    assert own_region(it, "a cup") is None  # two fit equally
    assert own_region(it, "a dog") is None
    mask = region_mask(it, it.regions[0])
    assert mask[4:12, 2:10].all()
    assert mask.sum() == 64


def test_an_overlay_is_bright_where_the_map_is_high_and_outlines_the_object():
    black, ramp = np.zeros((32, 32, 3), np.uint8), np.array([[0.0, 1.0]])
    plain = overlay(black, ramp, strength=1.0, side=96)
    assert plain.shape == (96, 96, 3)
    lightness = plain.astype(float).mean((0, 2))
    assert lightness[-1] > lightness[48] > lightness[0]
    shared = overlay(black, ramp, scale=(0.0, 10.0), strength=1.0, side=96)
    assert shared[:, -1].mean() < plain[:, -1].mean()  # on a wider scale the same value is darker
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    marked = overlay(black, ramp, mask_HW=mask, strength=1.0, side=96)
    changed = (marked != plain).any(2)
    assert (marked[changed].min(1) >= 250).any()
    rows = np.flatnonzero(changed.any(1))
    assert rows.min() in range(19, 24)
    assert rows.max() in range(72, 77)
    assert not changed[30:66, 30:66].any()


def test_an_overlay_shows_the_part_that_the_model_sees():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    assert overlay(wide, np.zeros((2, 2)), strength=0.0, side=60).shape == (20, 60, 3)
    middle = overlay(wide, np.zeros((2, 2)), seen=(20, 0, 40, 20), strength=0.0, side=40)
    assert middle.shape == (40, 40, 3)
    assert (middle > 200).all()


def test_half_blocks_are_two_pixels_a_character():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, :], pixels[1, :] = (255, 0, 0), (0, 0, 255)
    text = half_blocks(pixels, 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀"
    style = text.spans[0].style
    assert style.color.triplet == (255, 0, 0)
    assert style.bgcolor.triplet == (0, 0, 255)


@pytest.fixture
def twin_world():
    dataset = FakeDataset([record(n, [f"caption {n}"], regions=REGIONS) for n in range(2)])
    return dataset, Twin(
        "t", "swap_object", ("key00000", "key00001"), ("a red cup over a blue star", "a blue star over a red cup")
    )


def test_a_twin_on_the_terminal(twin_world):
    dataset, twin = twin_world
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=True, color_system="truecolor")
    shown = show_twin(console, model_with_patches(), dataset, twin, phrase="a blue star")
    assert out.getvalue() == ""  # nothing is printed inside
    console.print(shown)
    text = out.getvalue()
    scores = twin_scores(model_with_patches(), dataset, twin)
    for i in (0, 1):
        assert twin.captions[i] in text
        for j in (0, 1):
            assert scores.values[i][j] == pytest.approx(float(vector(twin.keys[i]) @ vector(twin.captions[j])), abs=1e-6)
            assert scores.shown(i, j) in text
    assert "a blue star" in text
    assert "told apart" in text
    assert ("not told apart" in text) != scores.group
    assert text.count("▀") == 4 * 32 * 16


@pytest.mark.parametrize("width", [40, 80])
def test_a_twin_fits_a_narrow_terminal_without_colours(twin_world, width):
    dataset, twin = twin_world
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(show_twin(console, FakeModel(vector, vector), dataset, twin))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("picture A" in line for line in lines)


def test_the_telling_phrase_is_one_that_the_other_caption_lacks(twin_world):
    dataset, twin = twin_world
    other = Twin("u", "colour", twin.keys, ("a red cup over a blue star", "a red cup over a green star"))
    assert telling_phrase(dataset, other) == "a blue star"
    assert telling_phrase(dataset, twin) == "a red cup"
