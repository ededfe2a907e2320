"""Heads: their formulas, warm starts, and conversions."""

import copy

import pytest
import torch
from torch.nn.functional import gelu, normalize

from wholegrain.errors import UserError
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers import HeadConfig, convert_head
from wholegrain.towers.base import RawImage, RawText, real_tokens
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.heads.branches import BranchHead, BranchReadout, BranchSettings
from wholegrain.towers.heads.registry import build_head
from wholegrain.towers.heads.sparc import SparcHead, SparcSettings
from wholegrain.towers.sources.small import SmallConfig, small_model

ALL = frozenset({"patches", "tokens"})
WIDTHS = Widths(12, 10, 8)
CONFIG = SmallConfig(image_size=32, image_width=32, image_layers=2, heads=2, text_width=24, text_layers=1, context=12, width=16)
TOKENIZER = train_tokenizer(["a red cup left of a blue hat"], 50, 12)
PIXELS = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
TEXTS = TOKENIZER.encode(["a red cup", "a blue hat left of a cup", "hat"])


def model_of(**settings):
    torch.manual_seed(0)
    return small_model(SmallConfig(**{**CONFIG.__dict__, **settings}), TOKENIZER).eval()


def raw_pair():
    torch.manual_seed(1)
    image = RawImage(torch.randn(3, 12), torch.randn(3, 4, 12), torch.randn(3, 5, 12), (2, 2))
    mask = real_tokens(torch.tensor([4, 2, 3, 1]), 4)
    return image, RawText(torch.randn(4, 10), torch.randn(4, 4, 10), mask)


def test_plain_head_is_one_matrix_a_side():
    head, (image, text) = PlainHead(WIDTHS), raw_pair()
    seen, read = head.project_image(image, ALL), head.project_text(text, ALL)
    torch.testing.assert_close(seen.pooled_BD, image.pooled_BV @ head.image.weight.T)
    torch.testing.assert_close(seen.patches_BPD, image.patches_BPV @ head.image.weight.T)
    torch.testing.assert_close(read.tokens_NLD, text.tokens_NLV @ head.text.weight.T)
    assert seen.grid == (2, 2)
    assert torch.equal(read.mask_NL, text.mask_NL)
    assert head.project_image(image).patches_BPD is None
    assert head.project_text(text).tokens_NLD is None


def test_sparc_head_against_a_loop():
    head, (image, text) = SparcHead(WIDTHS, SparcSettings(hidden=7)), raw_pair()
    torch.nn.init.normal_(head.global_out.weight)
    seen, read = head.project_image(image, ALL), head.project_text(text, ALL)
    gv, gt = head.image.weight, head.text.weight
    for b in range(3):
        mean = sum(image.patches_BPV[b]) / 4
        hidden = gelu(head.global_in.weight @ mean + head.global_in.bias)
        torch.testing.assert_close(seen.pooled_BD[b], gv @ (mean + head.global_out.weight @ hidden + head.global_out.bias))
        torch.testing.assert_close(seen.patches_BPD[b, 1], gv @ image.patches_BPV[b, 1])
    for n in range(4):
        real = text.tokens_NLV[n][text.mask_NL[n]]
        torch.testing.assert_close(read.pooled_ND[n], gt @ real.mean(0))
        local = read.tokens_NLD[n][text.mask_NL[n]].mean(0)
        torch.testing.assert_close(read.pooled_ND[n], local)  # g_t is linear, so global text = mean of local tokens


def test_sparcs_patches_may_go_the_way_of_the_whole_image():
    head, (image, _) = SparcHead(WIDTHS, SparcSettings(hidden=7)), raw_pair()
    start = head.patches_as_images(image)
    torch.testing.assert_close(start, head.project_image(image, ALL).patches_BPD)  # h_v starts as the identity
    torch.nn.init.normal_(head.global_out.weight)
    through = head.patches_as_images(image)
    for b, p in ((0, 0), (2, 3)):  # a patch is what an image of that patch alone is
        alone = RawImage(image.pooled_BV[b : b + 1], image.patches_BPV[b : b + 1, p : p + 1], None, (1, 1))
        torch.testing.assert_close(through[b, p], head.project_image(alone).pooled_BD[0])
    assert (through - head.project_image(image, ALL).patches_BPD).abs().max() > 0.1
    model = convert_head(model_of(), "sparc")
    torch.nn.init.normal_(model.head.global_out.weight)
    seen, plain = model.encode_patches_as_images(PIXELS), model.encode_images(PIXELS, ALL)
    assert torch.equal(seen.pooled_BD, plain.pooled_BD)
    assert seen.grid == plain.grid
    assert not torch.equal(seen.patches_BPD, plain.patches_BPD)
    base = model_of()
    assert torch.equal(base.encode_patches_as_images(PIXELS).patches_BPD, base.encode_images(PIXELS, ALL).patches_BPD)


def test_pooled_of_branches_gives_the_mean_of_their_cosines():
    head, (image, _) = BranchHead(WIDTHS, BranchSettings(branches=5)), raw_pair()
    seen = head.project_image(image)
    texts = normalize(torch.randn(6, 8), dim=-1)
    logits = torch.stack([normalize(seen.branches_BHD[:, h], dim=-1) @ texts.T for h in range(5)]).mean(0)
    torch.testing.assert_close(seen.pooled_BD @ texts.T, logits)


@pytest.mark.parametrize("pool", ["mean", "class"])
def test_one_branch_without_noise_is_the_plain_model(pool):
    model = model_of(pool=pool)
    expected = model.encode_images(PIXELS).pooled_BD
    convert_head(model, HeadConfig("branches", branches=1, noise=0.0))
    seen = model.encode_images(PIXELS)
    torch.testing.assert_close(seen.branches_BHD[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(normalize(seen.pooled_BD, dim=-1), normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pool", "config"),
    [
        ("mean", HeadConfig("sparc")),
        ("mean", HeadConfig("sparc", hidden=5)),
        ("mean", HeadConfig("branches", branches=3, noise=0.0)),
        ("class", HeadConfig("branches", branches=3, noise=0.0)),
        ("mean", HeadConfig("branches", branches=3, noise=0.0, source="readout")),
        ("class", HeadConfig("branches", branches=3, noise=0.0, source="readout")),
    ],
)
def test_warm_starts_are_exact(pool, config):
    model = model_of(pool=pool)
    image, text, *_ = copy.deepcopy(model)(PIXELS, TEXTS.tokens_NL, TEXTS.length_N, ALL)
    convert_head(model, config)
    new_image, new_text, *_ = model(PIXELS, TEXTS.tokens_NL, TEXTS.length_N, ALL)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(normalize(new_image.pooled_BD, dim=-1), normalize(image.pooled_BD, dim=-1), **close)
    torch.testing.assert_close(new_image.patches_BPD, image.patches_BPD, **close)
    torch.testing.assert_close(new_text.pooled_ND, text.pooled_ND, **close)
    torch.testing.assert_close(new_text.tokens_NLD[new_text.mask_NL], text.tokens_NLD[text.mask_NL], **close)
    if config.kind == "branches":
        torch.testing.assert_close(new_image.branches_BHD, image.pooled_BD[:, None].expand(-1, 3, -1), **close)


def test_the_global_path_of_sparc_learns():
    model = convert_head(model_of(), "sparc")
    image, text, scale, _ = model(PIXELS, TEXTS.tokens_NL, TEXTS.length_N)
    (image.pooled_BD @ text.pooled_ND.T * scale).square().sum().backward()
    assert model.head.global_out.weight.grad.abs().max() > 0


def test_auto_puts_branches_where_they_can_be_trained():
    model = model_of()
    model.image_tower.tune("none")
    convert_head(model, "branches")
    assert model.head.settings.source == "readout"
    assert model.image_frozen
    assert convert_head(model_of(), "branches").head.settings.source == "tokens"


def test_readout_weighs_patches_apart_per_branch_and_only_after_its_gates_open():
    torch.manual_seed(0)
    readout = BranchReadout(16, 3, noise=0.0)
    pooled, patches = torch.randn(2, 16), torch.randn(2, 5, 16)
    torch.testing.assert_close(readout(pooled, patches), pooled[:, None].expand(-1, 3, -1))
    torch.nn.init.ones_(readout.gate_HV)
    seen = readout(pooled, patches) - pooled[:, None]
    assert (seen[:, 0] - seen[:, 1]).abs().max() > 1e-3
    shuffled = readout(pooled, patches[:, torch.randperm(5)]) - pooled[:, None]
    torch.testing.assert_close(seen, shuffled)
    assert ((seen <= patches.amax(1)[:, None] + 1e-6) & (seen >= patches.amin(1)[:, None] - 1e-6)).all()


@pytest.mark.parametrize(
    "head",
    [
        PlainHead(WIDTHS),
        SparcHead(WIDTHS, SparcSettings(hidden=5)),
        BranchHead(WIDTHS, BranchSettings(branches=3, source="tokens")),
        BranchHead(WIDTHS, BranchSettings(branches=2, source="readout")),
    ],
)
def test_a_head_is_built_again_from_its_config(head):
    again = build_head(head.config())
    again.load_state_dict(head.state_dict())
    image, text = raw_pair()
    needs = head.raw_needs(ALL)
    assert needs >= ALL
    assert torch.equal(again.project_image(image).pooled_BD, head.project_image(image).pooled_BD)
    assert torch.equal(again.project_text(text).pooled_ND, head.project_text(text).pooled_ND)


def test_a_head_takes_its_own_settings_alone():
    with pytest.raises(UserError, match='the head "plain" has no setting "prototypes": it belongs to mgca'):
        HeadConfig("plain", prototypes=9)
    with pytest.raises(UserError, match='"flair" has no setting "mixtures": it belongs to llip'):
        HeadConfig("flair", mixtures=3)
    with pytest.raises(UserError, match=r'"llip" has no setting "mixture": did you mean "mixtures"'):
        HeadConfig("llip", mixture=3)
    with pytest.raises(UserError, match=r"head_settings\.layers is '3'"):
        HeadConfig("fusion", layers="3")
    with pytest.raises(UserError, match=r"head_settings\.hidden is True"):
        HeadConfig("sparc", hidden=True)
    with pytest.raises(UserError, match=r"head_settings\.attention_heads is 0"):
        HeadConfig("cosmos", attention_heads=0)
    for setting in ({"patches_see": "all"}, {"legacy_plus_one": True}):
        with pytest.raises(UserError, match="here source is 'readout'"):
            convert_head(model_of(), HeadConfig("branches", source="readout", **setting))
    model = model_of()
    before = set(model.state_dict())
    with pytest.raises(UserError, match="branch_blocks is of source = 'mlp'"):
        convert_head(model, HeadConfig("branches", branch_blocks=1))
    assert set(model.state_dict()) == before  # nothing was changed


@pytest.mark.parametrize(
    ("kind", "first", "other", "kept"),
    [
        ("sparc", {"hidden": 5}, {"hidden": 9}, ()),
        ("pacl", {"pool_temperature": 0.2}, {"pool_temperature": 0.5}, ("patch_out.weight", "patch_in.bias")),
        ("mgca", {"prototypes": 4}, {"prototypes": 7}, ()),
        ("flair", {"attention_heads": 2}, {"attention_heads": 4}, ("query.weight", "mix.bias")),
        ("fusion", {"layers": 2}, {"layers": 1}, ("fusion.patch.weight", "fusion.layers.0.linear1.weight", "fusion.answer.weight")),
        ("fusion", {"layers": 1}, {"score_cosine": 0.5}, ("fusion.ask_F", "fusion.layers.0.norm1.bias")),
        ("cosmos", {"attention_heads": 2}, {"attention_heads": 4}, ("to_words.mix.weight", "log_scale_1")),
    ],
)
def test_other_settings_make_what_was_asked_and_keep_the_weights_that_fit(kind, first, other, kept):
    model = convert_head(model_of(), HeadConfig(kind, **first))
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += torch.randn_like(parameter)
    old = model.head
    before = {name: value.clone() for name, value in old.state_dict().items()}
    for same in (HeadConfig(kind), HeadConfig(kind, **first)):
        assert convert_head(model, same).head is old  # what is not given stays
    convert_head(model, HeadConfig(kind, **other))
    wanted = {**vars(old.settings_with(model.image_tower)), **other}
    assert vars(model.head.settings_with(model.image_tower)) == wanted
    assert build_head(model.head.config()).config() == model.head.config()
    after = model.head.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in (*kept, "image.weight", "text.weight"))
    if not kept:
        assert before.keys() == after.keys()
        changed = [name for name in after if before[name].shape != after[name].shape]
        assert changed
        assert all(after[name].isfinite().all() for name in changed)


def test_a_layer_is_taken_over_whole_or_not_at_all():
    model = convert_head(model_of(), HeadConfig("sparc", hidden=5))
    with torch.no_grad():
        model.head.global_out.bias.fill_(3.0)  # fits a layer of any hidden width
    convert_head(model, HeadConfig("sparc", hidden=9))
    assert model.head.global_out.bias.abs().max() == 0


def test_conversions_that_are_refused_or_nothing():
    model = convert_head(model_of(), HeadConfig("branches", branches=2))
    head = model.head
    assert convert_head(model, HeadConfig("branches", branches=2)).head is head
    with pytest.raises(UserError, match="2 branches"):
        convert_head(model, "plain")
    for setting in ({"branches": 3}, {"source": "readout"}, {"patches_see": "all"}, {"legacy_plus_one": True}):
        with pytest.raises(UserError, match=f"was made with {next(iter(setting))}"):
            convert_head(model, HeadConfig("branches", **setting))
    assert convert_head(model, HeadConfig("branches", source="auto", noise=0.5, legacy_plus_one=False)).head is head
    mixed = convert_head(model_of(), HeadConfig("llip", mixtures=3))
    assert convert_head(mixed, HeadConfig("llip", mixtures=3, attention_heads=8)).head.settings.mixtures == 3
    for asked in (HeadConfig("llip", mixtures=4), HeadConfig("llip", pool_temperature=2.0), "sparc"):
        with pytest.raises(UserError, match=r"mixtures = 3|pool_temperature = 1\.0|mixture tokens"):
            convert_head(mixed, asked)
    with pytest.raises(UserError, match="no head 'owl'"):
        convert_head(model_of(), "owl")
    with pytest.raises(UserError, match="no branches"):
        model_of().encode_images(PIXELS, frozenset({"branches"}))
    with pytest.raises(UserError, match="linear"):
        PlainHead(Widths(12, 10, 8, "identity"))
