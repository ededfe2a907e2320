"""The preset small: places that enter as products, a reader that reads order, growing from crops to pictures."""

import numpy as np
import pytest
import torch
from torch.utils import _device

from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.captions import HELD_OUT_PLAIN, HELD_OUT_RELATION, vocabulary
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.sources.small import PlaceMoments, SmallConfig, at_image_size, local_mask, small_model, small_text_tower

WORLD = World()
TOKENIZER = train_tokenizer(vocabulary(WORLD), 1024, 32)
TINY = SmallConfig(image_size=32, image_width=32, image_layers=1, heads=2, text_width=32, text_layers=1, width=16)


def model(**changes):
    torch.manual_seed(0)
    return small_model(SmallConfig(**{**TINY.__dict__, **changes}), TOKENIZER).eval()


def test_a_mean_of_moments_knows_which_thing_is_where_and_a_plain_mean_does_not():
    """Two things at two places and the exchanged picture: only products of thing and place tell them apart in a mean."""
    a, b = torch.randn(32), torch.randn(32)
    one, other = torch.zeros(1, 16, 32), torch.zeros(1, 16, 32)
    one[0, 0], one[0, 15], other[0, 0], other[0, 15] = a, b, b, a
    moments = PlaceMoments(4)
    assert torch.allclose(one.mean(1), other.mean(1))
    mean, across, down = (moments(one) - moments(other)).mean(1)[0].chunk(3)
    assert mean.abs().max() < 1e-6
    corner = 3 / 5**0.5  # of a ramp of four steps with unit variance, at either end
    assert torch.allclose(across, 2 * corner * (b - a) / 16, atol=1e-5)
    assert torch.allclose(down, across, atol=1e-6)


def test_it_is_built_where_transformers_has_loaded_a_model_before(monkeypatch):
    """While transformers loads a model it stands in for torch.linspace; what torch then takes for its constructors leaves the real one out."""
    constructors = _device._device_constructors
    monkeypatch.setattr(_device, "_device_constructors", lambda: constructors() - {torch.linspace})
    with torch.device("meta"):
        assert torch.linspace(0, 1, 2).device.type == "cpu"
        assert PlaceMoments(4).places_P3.device.type == "meta"
    assert len(model().image_tower.net.norm[1].places_P3) == 16


def test_moments_are_of_zero_mean_and_unit_variance_and_leave_tokens_before_the_patches_alone():
    places_P3 = PlaceMoments(8).places_P3
    assert torch.allclose(places_P3.mean(0), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    assert torch.allclose(places_P3.T @ places_P3 / 64, torch.eye(3), atol=1e-6)
    x = torch.randn(2, 3 + 16, 32)
    y = PlaceMoments(4)(x)
    assert torch.equal(y[:, :3], x[:, :3].repeat(1, 1, 3))
    assert torch.equal(y[:, 3:, :32], x[:, 3:])
    assert not torch.allclose(y[:, 3:, 32:64], x[:, 3:])


def test_a_reader_starts_near_a_bag_of_words_and_can_learn_order():
    """The gates start near one, so two orders of the same words are close but not the same."""
    small = model()
    same = TOKENIZER.encode(["a cup left of a sun", "a sun left of a cup", "a moon above a key"])
    text = torch.nn.functional.normalize(small.encode_texts(same.tokens_NL, same.length_N).pooled_ND, dim=1)
    swapped, other = text[0] @ text[1], text[0] @ text[2]
    assert other < swapped < 1 - 1e-6


def test_short_sight_keeps_what_is_far_out_of_a_patch():
    """One layer reaches one patch (a convolutional stem has norms over the whole picture, so not with it): a change in one corner is not felt at the other."""
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    changed = pixels.clone()
    changed[:, :, :8, :8] = 255 - changed[:, :, :8, :8]
    for sight, felt in ((1, False), (0, True)):
        small = model(image_size=64, sight=sight, stem="patch")
        a, b = (small.encode_images(p, frozenset({"patches"})).patches_BPD[0] for p in (pixels, changed))
        assert not torch.allclose(a[0], b[0])
        assert torch.equal(a[-1], b[-1]) is not felt


def test_short_sight_leaves_tokens_before_the_patches_free():
    mask = local_mask(3, 1, prefix=2)
    assert mask.shape == (11, 11)
    assert (mask[:2] == 0).all()
    assert (mask[:, :2] == 0).all()
    assert [int((row == 0).sum()) for row in mask[2:, 2:]] == [4, 6, 4, 6, 9, 6, 4, 6, 4]


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_branches_see_the_whole_picture_and_patches_stay_near(pool):
    small = model(image_size=64, pool=pool, stem="patch")
    small.image_tower.add_branches(3)
    pixels = torch.rand(1, 3, 64, 64)
    changed = pixels.clone()
    changed[:, :, :8, :8] = 0
    a, b = (small.image_tower(p, frozenset({"patches"})) for p in (pixels, changed))
    assert not torch.allclose(a.classes_BHV, b.classes_BHV)
    if pool == "mean":
        assert torch.equal(a.patches_BPV[0, -1], b.patches_BPV[0, -1])


def test_the_pooled_vector_is_the_mean_of_the_patches():
    """What SPARC's exact warm start rests on."""
    small = model()
    image = small.encode_images(torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8), frozenset({"patches"}))
    assert torch.allclose(image.patches_BPD.mean(1), image.pooled_BD, atol=1e-5)


def test_reader_sees_order_and_not_padding():
    small = model()
    tokens = TOKENIZER.encode(["a cup left of a sun", "a sun left of a cup", "a cup"])
    text = small.encode_texts(tokens.tokens_NL, tokens.length_N, frozenset({"tokens"}))
    assert (text.pooled_ND[0] - text.pooled_ND[1]).norm() > 1e-3
    padded = torch.cat([tokens.tokens_NL, torch.full((3, 5), 7)], 1)
    again = small.encode_texts(padded, tokens.length_N, frozenset({"tokens"}))
    assert torch.allclose(again.pooled_ND, text.pooled_ND, atol=1e-6)
    assert torch.allclose(again.tokens_NLD[2, : tokens.length_N[2]], text.tokens_NLD[2, : tokens.length_N[2]], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_reader_on_real_tokens_is_the_reader_on_padded_rows(dtype):
    """Vectors, tokens and gradients of its formula, word by word, in rows of any lengths."""
    torch.manual_seed(0)
    tower = small_text_tower(SmallConfig(text_width=8, heads=2, text_layers=2), vocab_size=9).to(dtype)
    tokens_NL, length_N = torch.randint(0, 9, (5, 6)), torch.tensor([3, 6, 1, 4, 6])
    raw = tower(tokens_NL, length_N, frozenset({"tokens"}))
    rows = []
    for row_L, length in zip(tokens_NL, length_N.tolist(), strict=True):
        words = tower.embedding(row_L[:length])
        rows.append(tower.value(words) * tower.gate(tower.norm(tower.reader(words)[0])))
    wanted_NV = torch.stack([row_LV.mean(0) for row_LV in rows])
    torch.testing.assert_close(raw.pooled_NV, wanted_NV)
    torch.testing.assert_close(raw.tokens_NLV[raw.mask_NL], torch.cat(rows))
    assert (raw.tokens_NLV[~raw.mask_NL] == 0).all()
    ways = [torch.autograd.grad(pooled_NV.square().sum(), list(tower.parameters())) for pooled_NV in (raw.pooled_NV, wanted_NV)]
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)


def test_growing_keeps_what_was_learned_and_reads_larger_pictures():
    small = model()
    large = at_image_size(small, 64)
    pixels = torch.full((1, 3, 64, 64), 200, dtype=torch.uint8)
    assert large.encode_images(pixels, frozenset({"patches"})).grid == (8, 8)
    same = at_image_size(small, 32)
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(small.state_dict().values(), same.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("settings", [{"reader": "lstm"}, {"places": "none"}])
def test_settings_that_do_not_exist_or_fit_are_refused(settings):
    with pytest.raises(UserError):
        model(**settings)


def test_vocabulary_holds_held_out_words():
    words = {word for text in vocabulary(WORLD) for word in text.split()}
    needed = {w for t in (*HELD_OUT_PLAIN, *HELD_OUT_RELATION) for w in t.split() if "{" not in w}
    assert needed <= words


def test_scenes_data_set_is_a_function_of_its_settings(tmp_path):
    counts = SceneCounts(8, 4, 4, 2, 2, 2)
    one, two = (build_scenes(tmp_path / name, WORLD, counts, workers=n) for name, n in (("one", 1), ("two", 2)))
    assert one.content_hash == two.content_hash
    assert {t.split for t in one.twins} == {"train", "val", "test"}
    for twin in one.twins:
        assert all(key in one for key in twin.keys)
    for (key, caption), rows in one.negatives.items():
        texts = {c.id: c.text for c in one.record(key).captions}
        for row in rows:
            assert row.text != texts[caption]
    record = next(one.records("test"))
    pixels = one.pixels(record.key)
    assert pixels.shape == (64, 64, 3)
    for region in record.regions:
        assert sum(region.mask) == 64 * 64
        assert np.prod(np.subtract(region.box[2:], region.box[:2])) > 20
