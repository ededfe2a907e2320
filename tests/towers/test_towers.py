"""Towers: widths, patches, true length, tuning, and open_clip's own results."""

import open_clip
import pytest
import timm
import torch
from open_clip.model import CustomTextCLIP
from open_clip_towers import TEXT, VISION, clip_and_config

from wholegrain.errors import UserError
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.base import keeps_true_length, masked_mean, real_tokens
from wholegrain.towers.io import load_model
from wholegrain.towers.sources.hf_text import HfTextTower
from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.open_clip_folder import refuse_other_kinds
from wholegrain.towers.sources.small import SmallConfig, SmallImageTower, SmallTextTower, small_model
from wholegrain.towers.sources.timm import TimmImageTower, timm_tower

PATCHES, TOKENS = frozenset({"patches"}), frozenset({"tokens"})
SIGLIP = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
TINY = SmallConfig(image_size=32, image_width=32, image_layers=2, heads=2, text_width=24, text_layers=2, context=20, width=16)


def rows(count=5, context=77, longest=11, vocab=90):
    """Random rows in CLIP's form: the highest id ends a text, zeros follow."""
    random = torch.Generator().manual_seed(1)
    length = torch.randint(3, longest + 1, (count,), generator=random)
    tokens = torch.randint(1, vocab - 1, (count, context), generator=random)
    tokens[torch.arange(count), length - 1] = vocab - 1
    return tokens.masked_fill(~real_tokens(length, context), 0), length


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        {"timm_model_name": "test_resnet", "timm_proj": "linear", "timm_proj_bias": True},
        {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": ""},
        {"timm_model_name": "test_resnet", "timm_proj": "mlp"},
        {"layers": [1, 1, 1, 1], "width": 32, "head_width": 64, "image_size": 64},
    ],
    ids=["token", "avg", "avg-ln-after", "timm-map", "timm-cnn", "timm-own-head", "timm-mlp", "resnet"],
)
def test_image_features_equal_open_clips(vision):
    big = "timm_model_name" in vision and "vit" in vision["timm_model_name"]
    clip, config = clip_and_config({**vision, "image_size": 160 if big else vision.get("image_size", 32)})
    if big:
        config["embed_dim"] = 64
        clip = CustomTextCLIP(**config).eval()
    size = config["vision_cfg"]["image_size"]
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = clip.encode_image(pixels)
        image, _, head = split_open_clip(clip, config, 0)
        raw = image.eval()(pixels)
        torch.testing.assert_close(head.project_image(raw).pooled_BD, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("quick", [False, True])
def test_text_features_equal_open_clips_at_true_length(quick):
    clip, config = clip_and_config(quick_gelu=quick)
    tokens, length = rows()
    with torch.no_grad():
        expected = clip.encode_text(tokens)
        _, text, head = split_open_clip(clip, config, 0)
        assert text.true_length
        short = text(tokens[:, : int(length.max())], length, TOKENS)
        torch.testing.assert_close(head.project_text(short).pooled_ND, expected, rtol=1e-4, atol=1e-5)
        full = text(tokens, length, TOKENS)
    torch.testing.assert_close(short.tokens_NLV, full.tokens_NLV[:, : int(length.max())], rtol=1e-5, atol=1e-5)


def test_quick_gelu_reaches_both_towers():
    plain, config = clip_and_config()
    quick, quick_config = clip_and_config(quick_gelu=True)
    quick.load_state_dict(plain.state_dict())
    towers = [split_open_clip(c, g, 0)[:2] for c, g in ((plain, config), (quick, quick_config))]
    pixels, (tokens, length) = torch.randn(1, 3, 32, 32), rows()
    with torch.no_grad():
        assert (towers[0][0].eval()(pixels).pooled_BV - towers[1][0].eval()(pixels).pooled_BV).abs().max() > 1e-4
        assert (towers[0][1](tokens, length).pooled_NV - towers[1][1](tokens, length).pooled_NV).abs().max() > 1e-5


@pytest.mark.parametrize("text", [SIGLIP, {**TEXT, "no_causal_mask": True}], ids=["last", "argmax-sees-padding"])
def test_towers_that_see_padding_are_refused_true_length_and_still_right(text):
    clip, config = clip_and_config(text=text)
    tokens, length = rows()
    with torch.no_grad():
        expected = clip.encode_text(tokens)
        _, tower, head = split_open_clip(clip, config, 0)
        assert not tower.true_length
        assert not keeps_true_length(tower, 89, 0)
        trimmed = tower(tokens[:, : int(length.max())], length, TOKENS)
    torch.testing.assert_close(head.project_text(trimmed).pooled_ND, expected, rtol=1e-4, atol=1e-5)
    assert trimmed.tokens_NLV.shape[1] == int(length.max())


def test_the_parity_test_leaves_the_tower_as_it_was():
    clip, config = clip_and_config(text=SIGLIP)
    _, tower, _ = split_open_clip(clip, config, 0)
    tower.train()
    keeps_true_length(tower, 89, 0)
    assert tower.training
    assert not tower.true_length


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_small_text_tower_keeps_true_length(pool):
    torch.manual_seed(0)
    config = SmallConfig(**{**TINY.__dict__, "text_pool": pool})
    tower = SmallTextTower(config, 90)
    assert keeps_true_length(tower, 3, 0)
    tokens, length = rows(context=20)
    for mode in (True, False):
        tower.train(mode)
        full, short = tower(tokens, length, TOKENS), tower(tokens[:, :11], length, TOKENS)
        torch.testing.assert_close(full.pooled_NV, short.pooled_NV, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(full.tokens_NLV[:, :11][full.mask_NL[:, :11]], short.tokens_NLV[short.mask_NL])
    if pool == "mean":
        torch.testing.assert_close(masked_mean(short.tokens_NLV, short.mask_NL), short.pooled_NV)
    assert not torch.equal(tower.blocks[0].linear1.weight, tower.blocks[1].linear1.weight)


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_hf_tower_keeps_true_length_and_equals_transformers(pool):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=90, max_position_embeddings=40, **sizes)
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    tower = HfTextTower(bert, pool, 30).eval()
    assert keeps_true_length(tower, 89, 0)
    tokens, length = rows(context=12)
    with torch.no_grad():
        raw = tower(tokens, length, TOKENS)
        for n, size in enumerate(length.tolist()):
            hidden = bert(input_ids=tokens[n : n + 1, :size]).last_hidden_state[0]
            torch.testing.assert_close(raw.pooled_NV[n], hidden.mean(0) if pool == "mean" else hidden[0], rtol=1e-4, atol=1e-5)
    tower.tune("last:1")
    trained = {name.split(".")[3] for name, p in tower.named_parameters() if p.requires_grad}
    assert trained == {"1"}


def test_masked_mean_ignores_what_padding_holds():
    x = torch.tensor([[[1.0], [3.0], [float("nan")]], [[5.0], [float("inf")], [0.0]]])
    assert masked_mean(x, real_tokens(torch.tensor([2, 1]), 3)).tolist() == [[2.0], [5.0]]


@pytest.mark.parametrize(("stem", "pool"), [("conv", "mean"), ("patch", "class")])
def test_small_image_tower(stem, pool):
    torch.manual_seed(0)
    tower = SmallImageTower(SmallConfig(**{**TINY.__dict__, "stem": stem, "pool": pool}))
    pixels = torch.randn(2, 3, 32, 32)
    raw = tower(pixels, PATCHES)
    assert raw.patches_BPV.shape == (2, 16, tower.width)
    assert raw.grid == (4, 4)
    assert tower(pixels).patches_BPV is None
    if pool == "mean":
        torch.testing.assert_close(raw.patches_BPV.mean(1), raw.pooled_BV)
    # row-major: a spot at the top right changes the patch of row 0, column 3 most
    spot = pixels.clone()
    spot[:, :, 0:8, 24:32] += 3
    change = (tower(spot, PATCHES).patches_BPV - raw.patches_BPV)[..., :32].norm(dim=-1).mean(0)
    assert int(change.argmax()) == 3


@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv3_small_050", "test_convnext", "test_mambaout"])
def test_timm_cells_are_patches_in_the_pooled_space(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    size = 64
    tower = TimmImageTower(net, {"kind": "timm", "name": name}).eval()
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        raw = tower(pixels, PATCHES)
        torch.testing.assert_close(raw.pooled_BV, net(pixels))
        features = net.forward_features(pixels)
    rows_, columns = raw.grid
    assert raw.patches_BPV.shape == (2, rows_ * columns, tower.width)
    if name == "test_efficientnet":
        torch.testing.assert_close(raw.patches_BPV, features.flatten(2).transpose(1, 2))
        torch.testing.assert_close(raw.patches_BPV.mean(1), raw.pooled_BV)


def test_pad_type_reaches_timm_and_batchnorm_stays_fixed():
    same, plain = timm_tower("test_efficientnet", 64, {"pad_type": "same"}), timm_tower("test_efficientnet", 64)
    plain.load_state_dict(same.state_dict())
    pixels = torch.randn(1, 3, 64, 64)
    same.train()
    plain.eval()
    before = {k: v.clone() for k, v in same.state_dict().items() if "running" in k}
    with torch.no_grad():
        assert (same(pixels).pooled_BV - plain(pixels).pooled_BV).abs().max() > 1e-4
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in before.items())
    free = timm_tower("test_efficientnet", 64, fixed_batchnorm=False)
    free.train()
    free(torch.randn(4, 3, 64, 64))
    assert any(not torch.equal(v, free.state_dict()[k]) for k, v in before.items() if "running_mean" in k)


def test_tuning_selects_stages_and_keeps_frozen_ones_in_eval():
    model = small_model(TINY, train_tokenizer(["a"], 50, 20))
    tower = model.image_tower
    tower.tune("last:1")
    trained = {name for name, p in tower.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in tower.named_parameters() if n.startswith(("net.blocks.1.", "net.norm."))}
    assert not model.image_frozen
    tower.tune("none")
    assert model.image_frozen
    assert not model.text_frozen
    model.train()
    assert not any(m.training for m in tower.net.modules())
    tower.tune("all")
    model.train()
    assert all(m.training for m in tower.net.modules())
    with pytest.raises(UserError, match="last:N"):
        tower.tune("last:3")


def test_last_stages_of_a_cnn_are_its_end():
    tower = timm_tower("test_efficientnet", 64)
    tower.tune("last:1")
    trained = {n.split(".")[1] for n, p in tower.named_parameters() if p.requires_grad}
    assert "conv_head" in trained
    assert "conv_stem" not in trained


def test_faults():
    with pytest.raises(UserError, match="mobilenetv2_100"):
        timm_tower("mobilenet_v2_100", 64)
    with pytest.raises(UserError, match="no_such"):
        timm_tower("test_efficientnet", 64, {"no_such": 1})
    with pytest.raises(UserError, match="power of two"):
        SmallConfig(image_size=60, patch=6)
    with pytest.raises(UserError, match="make the two the same"):
        small_model(TINY, train_tokenizer(["a"], 50, 32))
    clip, config = clip_and_config({"layers": [1, 1, 1, 1], "width": 32, "head_width": 64, "image_size": 64})
    image, _, _ = split_open_clip(clip, config, 0)
    with pytest.raises(UserError, match="Vision Transformer"):
        image(torch.zeros(1, 3, 64, 64), PATCHES)


def served(name):
    try:
        refuse_other_kinds(name, open_clip.get_model_config(name))
    except UserError:
        return False
    return True


def test_every_open_clip_text_configuration_is_known():
    """A new form of text pooling in open_clip must be looked at, not guessed."""
    names = [name for name in open_clip.list_models() if served(name)]
    assert len(names) > 100
    pools = {open_clip.get_model_config(n)["text_cfg"].get("pool_type", "argmax") for n in names}
    assert pools <= {"argmax", "eos", "last", "first"}


CLAP = {"embed_dim": 16, "audio_cfg": {}, "text_cfg": TEXT}
MODERN = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": {**TEXT, "text_arch": "modern"}}


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("coca_ViT-B-32", None, "it has multimodal_cfg"),
        ("roberta-ViT-B-32", None, r"Hugging Face tower \(roberta-base\)"),
        ("sounds", CLAP, "it has audio_cfg"),
        ("modern", MODERN, "kind 'modern'"),
    ],
    ids=["coca", "hf", "clap", "modern"],
)
def test_models_of_open_clip_that_are_no_two_towers_are_refused_before_they_are_built(name, config, words, monkeypatch):
    """The last two kinds came with open_clip 4."""
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("it was built"))
    if config is not None:
        monkeypatch.setattr(open_clip, "list_models", lambda: [name])
        monkeypatch.setattr(open_clip, "get_model_config", lambda _: config)
    with pytest.raises(UserError, match=words):
        load_model(name)


def test_a_timm_tower_without_a_grid_gives_vectors_and_no_patches():
    tower = timm_tower("naflexvit_base_patch16_gap", 32, {"embed_dim": 32, "depth": 1, "num_heads": 2})
    pixels = torch.randn(2, 3, 32, 32)
    assert tower(pixels).pooled_BV.shape == (2, tower.width)
    with pytest.raises(UserError, match="NaFlexVit"):
        tower(pixels, PATCHES)
