import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import image_transform
from PIL import Image

from wholegrain.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess, random_box
from wholegrain.errors import UserError


def picture(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width"), [(40, 61), (97, 50), (32, 32), (20, 31), (333, 100)])
@pytest.mark.parametrize(("resize", "mode"), [("crop", "shortest"), ("squash", "squash")])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_open_clips_bit_for_bit(height, width, resize, mode, interpolation):
    pixels = picture(height, width)
    reference = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, resize_mode=mode, interpolation=interpolation)
    expected = reference(Image.fromarray(pixels))
    ours = Preprocess(32, resize, interpolation)
    out = ours.image(pixels)
    assert out.dtype == np.uint8
    assert out.flags["C_CONTIGUOUS"]
    torch.testing.assert_close(ours.normalise(torch.from_numpy(out)[None])[0], expected, atol=2e-6, rtol=0)


def test_a_box_is_shown_whole():
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:30, 40:70] = (255, 0, 0)
    out = Preprocess(16).image(pixels, (42, 12, 68, 28))
    assert (out == np.array([255, 0, 0], np.uint8)[:, None, None]).all()
    assert Preprocess(16).image(pixels)[0].min() == 0


def test_the_visible_box_is_what_crop_shows():
    # A picture whose red value is its column: the first and last visible columns can be read off.
    pixels = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2)
    p = Preprocess(100)
    x0, y0, x1, y1 = p.visible_box(200, 100)
    out = p.image(pixels)
    assert (out[0, 0, 0], out[0, 0, -1]) == (x0, x1 - 1)
    assert (y0, y1) == (0, 100)
    assert Preprocess(50, "squash").visible_box(200, 100) == (0, 0, 200, 100)


def test_normalise_takes_255_and_0_to_the_known_values():
    out = Preprocess(8).normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    expected = [[(v - m) / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)] for v in (0, 1)]
    torch.testing.assert_close(out[:, :, 0, 0], torch.tensor(expected), atol=1e-6, rtol=0)


def test_normalise_can_be_used_in_training_after_inference():
    p = Preprocess(8, mean=(0.1, 0.2, 0.3))
    with torch.inference_mode():
        p.normalise(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    weight = torch.ones(1, requires_grad=True)
    (p.normalise(torch.ones(1, 3, 2, 2, dtype=torch.uint8)) * weight).sum().backward()
    assert weight.grad is not None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_random_boxes_lie_inside_and_depend_on_the_seed_alone(width, height, seed):
    box = random_box(np.random.default_rng(seed), width, height)
    assert box == random_box(np.random.default_rng(seed), width, height)
    x0, y0, x1, y1 = box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height


def test_random_boxes_have_the_asked_area_and_shape():
    rng = np.random.default_rng(3)
    boxes = [random_box(rng, 400, 300, (0.3, 0.5)) for _ in range(300)]
    areas = np.array([(x1 - x0) * (y1 - y0) / 120_000 for x0, y0, x1, y1 in boxes])
    shapes = np.array([(x1 - x0) / (y1 - y0) for x0, y0, x1, y1 in boxes])
    assert (areas > 0.29).all()
    assert (areas < 0.51).all()
    assert (areas.min(), areas.max()) == (pytest.approx(0.3, abs=0.02), pytest.approx(0.5, abs=0.02))
    assert np.abs(np.log(shapes)).max() <= math.log(4 / 3) + 0.02
    assert len({box[:2] for box in boxes}) > 250


def test_json_round_trip_and_faults():
    p = Preprocess(64, "squash", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert Preprocess.from_json(p.to_json()) == p
    with pytest.raises(UserError, match="crop or squash"):
        Preprocess(8, "stretch")
    with pytest.raises(UserError, match='unknown key "colour"'):
        Preprocess.from_json({"size": 8, "colour": 1})
    with pytest.raises(UserError, match="size"):
        Preprocess.from_json({"resize": "crop"})


@pytest.mark.parametrize(("height", "width"), [(40, 61), (97, 50), (32, 32), (20, 31), (333, 100)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_quick_way_shows_the_same_to_two_levels(height, width, resize, interpolation):
    pixels, ours = picture(height, width).copy(), Preprocess(32, resize, interpolation)
    quick = ours.quick(pixels)
    apart = np.abs(quick.numpy().astype(int) - ours.image(pixels))
    assert quick.dtype == torch.uint8
    assert apart.max() <= 2
    assert (apart > 0).mean() < 0.2
    box = (3, 2, width - 4, height - 5)
    cut = np.ascontiguousarray(pixels[2 : height - 5, 3 : width - 4])
    alone = np.abs(ours.quick(pixels, box).numpy().astype(int) - Preprocess(32, "squash", interpolation).image(cut))
    assert alone.max() <= 2


def test_the_quick_way_is_the_same_with_any_number_of_threads():
    pixels, before = picture(333, 500).copy(), torch.get_num_threads()
    try:
        shown = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            shown.append(Preprocess(224).quick(pixels))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_thin_strip_is_not_enlarged_whole(resize):
    """A strip of one pixel would be 224 times as long; its middle square is that of a shorter strip with the same middle."""
    colours = np.random.default_rng(0).integers(0, 256, (1, 200_000, 3), dtype=np.uint8)
    preprocess = Preprocess(224, resize=resize)
    whole = preprocess.image(colours)
    assert preprocess.quick(colours).shape == whole.shape == (3, 224, 224)
    if resize == "crop":
        np.testing.assert_array_equal(whole, preprocess.image(colours[:, 99_980:100_020]))
        np.testing.assert_array_equal(whole.transpose(0, 2, 1), preprocess.image(colours.transpose(1, 0, 2)))
