"""Longer contexts and other picture sizes, by what stands behind a model's name."""

import pytest
import torch
from house_models import CONFIG, SPEC, TEXTS, TOKENIZER, assert_same, open_clip_folder

from wholegrain.errors import UserError
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.positions import interpolated, split_options, stretched
from wholegrain.towers.sources.small import SmallConfig, small_model

LONG = "a small red cup stands to the left of a blue hat on the table by the window and " * 8


def long_clip(table, kept=20, factor=4):
    """Long-CLIP's table, written out entry by entry."""
    rows = [table[i] for i in range(kept)]
    for low, high in zip(table[kept:-1], table[kept + 1 :], strict=True):
        rows += [((factor - k) * low + k * high) / factor for k in range(factor)]
    rows += [table[-1] + k * (table[-1] - table[-2]) / factor for k in range(factor)]
    return torch.stack(rows)


def test_stretching_is_long_clips():
    table = torch.randn(77, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stretched(table, 248), long_clip(table), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stretched(table, 134), long_clip(table, factor=2), rtol=1e-6, atol=1e-6)
    assert torch.equal(stretched(table, 100)[:20], table[:20])


def test_interpolation_is_linear_between_the_ends():
    table = torch.randn(77, 5, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.interpolate(table.T[None], 248, mode="linear", align_corners=True)[0].T
    torch.testing.assert_close(interpolated(table, 248), theirs, rtol=1e-4, atol=1e-5)


def test_what_stands_behind_a_name():
    assert split_options("small:image_size=96,context=40") == ("small:image_size=96,context=40", {})
    assert split_options("a,b/ViT,context=3") == ("a,b/ViT", {"context": "3"})
    assert split_options("runs/a,b") == ("runs/a,b", {})
    assert split_options("runs/x:last,image_size=64,context=9") == ("runs/x:last", {"image_size": "64", "context": "9"})


def encode(model, texts):
    tokens = model.tokenizer.encode(texts)
    with torch.no_grad():
        return model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND


def test_a_longer_context(tmp_path):
    clip = open_clip_folder(tmp_path / "c")
    base = load_model(tmp_path / "c")
    model = load_model(f"{tmp_path / 'c'},context=248")
    assert model.tokenizer.context_length == model.text_tower.context_length == 248
    assert model.text_tower.true_length
    assert torch.equal(encode(model, TEXTS), encode(base, TEXTS))  # short texts are what they were
    assert model.tokenizer.encode([LONG]).length_N.item() == 154
    assert not torch.allclose(encode(model, [LONG]), encode(base, [LONG]))
    torch.testing.assert_close(
        model.text_tower.net.positional_embedding, long_clip(clip.positional_embedding), rtol=1e-6, atol=1e-6
    )
    save_model(model, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.tokenizer.context_length == 248
    assert_same(model, again)
    assert torch.equal(encode(model, [LONG]), encode(again, [LONG]))
    assert_same(load_model(tmp_path / "c", context_length=248), model)
    even = load_model(tmp_path / "c", context_length=248, positions="interpolate")
    assert not torch.allclose(encode(even, TEXTS), encode(base, TEXTS))


def test_a_longer_context_is_read_causally(tmp_path):
    open_clip_folder(tmp_path / "c")
    tower = load_model(f"{tmp_path / 'c'},context=120").text_tower
    rows = torch.randint(3, 49000, (2, 100), generator=torch.Generator().manual_seed(0))
    rows[:, -1] = 49407
    rows[1, :60] = rows[0, :60]
    with torch.no_grad():
        tokens = tower(rows, torch.tensor([100, 100]), frozenset({"tokens"})).tokens_NLV
    torch.testing.assert_close(tokens[0, :60], tokens[1, :60])
    assert not torch.allclose(tokens[0, 61:], tokens[1, 61:])


def test_a_shorter_context_is_exact_where_padding_is_not_read(tmp_path):
    open_clip_folder(tmp_path / "c")
    open_clip_folder(tmp_path / "padded", no_causal_mask=True, pool_type="last")
    base, short = load_model(tmp_path / "c"), load_model(f"{tmp_path / 'c'},context=16")
    assert torch.equal(encode(base, TEXTS), encode(short, TEXTS))
    assert short.tokenizer.encode([LONG]).length_N.item() == 16
    with pytest.raises(UserError, match="reads its padding"):
        load_model(f"{tmp_path / 'padded'},context=16")
    longer = load_model(f"{tmp_path / 'padded'},context=100,positions=interpolate")
    assert not longer.text_tower.true_length
    save_model(longer, tmp_path / "saved")
    assert_same(longer, load_model(tmp_path / "saved"))


@pytest.mark.parametrize("reader", ["gru", "transformer"])
def test_the_preset(reader, tmp_path):
    torch.manual_seed(0)
    settings = {**CONFIG.__dict__, "reader": reader, "context": 24}
    save_model(small_model(SmallConfig(**settings), train_tokenizer(TEXTS, 50, 24)), tmp_path / "m")
    model = load_model(f"{tmp_path / 'm'},context=60,image_size=64")
    assert (model.tokenizer.context_length, model.preprocess.size) == (60, 64)
    assert encode(model, [LONG]).shape == (1, 16)
    save_model(model, tmp_path / "again")
    assert_same(model, load_model(tmp_path / "again"))


def test_another_picture_size(tmp_path):
    clip = open_clip_folder(tmp_path / "c")
    model = load_model(f"{tmp_path / 'c'},image_size=48")
    assert model.preprocess.size == 48
    theirs = {"visual.positional_embedding": clip.visual.positional_embedding}
    from open_clip.model import CLIP, resize_pos_embed

    vision = {"image_size": 48, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    resize_pos_embed(theirs, CLIP(16, vision, {"vocab_size": 9, "width": 16, "heads": 2, "layers": 1}))
    torch.testing.assert_close(model.image_tower.net.positional_embedding.detach(), theirs["visual.positional_embedding"])
    save_model(convert_head(model, HeadConfig("branches", branches=2)), tmp_path / "saved")
    assert_same(model, load_model(tmp_path / "saved"))
    with pytest.raises(UserError, match="branches"):
        load_model(f"{tmp_path / 'saved'},image_size=64")
    with pytest.raises(UserError, match="multiple"):
        load_model(f"{tmp_path / 'c'},image_size=50")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("context=200,positions=longer", "stretch or interpolate"),
        ("context=many", "whole number"),
        ("context=2", "4 or more"),
    ],
)
def test_what_cannot_be(options, words, tmp_path):
    open_clip_folder(tmp_path / "c")
    with pytest.raises(UserError, match=words):
        load_model(f"{tmp_path / 'c'},{options}")


def test_stretching_needs_more_positions_than_it_keeps(tmp_path):
    settings = {**CONFIG.__dict__, "reader": "transformer"}
    save_model(small_model(SmallConfig(**settings), TOKENIZER), tmp_path / "m")
    with pytest.raises(UserError, match="keeps the first 20"):
        load_model(f"{tmp_path / 'm'},context=30")
    assert load_model(f"{tmp_path / 'm'},context=30,positions=interpolate").tokenizer.context_length == 30
    assert SPEC.startswith("small:")  # its own settings are left alone
    assert load_model(SPEC, tokenizer=TOKENIZER).text_tower.context_length == 12
