"""The gradient read-out against its definition: attention weights as leaves of a graph in float64, and moved by a little."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from open_clip_towers import clip_and_config
from tiny_models import randomised, save_transformers, transformers_siglip
from torch.nn.functional import cosine_similarity

from wholegrain.data.preprocess import Preprocess
from wholegrain.evaluation.read_outs import legrad
from wholegrain.evaluation.read_outs.contract import Phrase
from wholegrain.evaluation.read_outs.registry import looks, read_outs_named
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers import convert_head, load_model
from wholegrain.towers.base import NOTHING, RawImage
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import OpenClipImageTower, split_open_clip
from wholegrain.towers.sources.small import SmallConfig, small_model, small_text_tower
from wholegrain.towers.sources.timm import timm_tower

TOKENIZER = ClipTokenizer(12)
SIZES = SmallConfig(image_size=32, image_width=32, image_layers=3, heads=2, text_width=24, text_layers=1, context=12, width=16)
PHRASES = [Phrase("a red cup"), Phrase("a blue hat left of a cup"), Phrase("two suns")]
ROWS = [[0, 1], [2], [1, 2, 0], []]


def open_clip_model(tmp_path, **vision):
    text = {"context_length": 12, "vocab_size": TOKENIZER.vocab_size, "width": 24, "heads": 2, "layers": 1}
    clip, config = clip_and_config({"layers": 3, **vision}, text)
    image, text_tower, head = split_open_clip(clip, config, 0)
    return Model(image, text_tower, head, Preprocess(size=32), TOKENIZER)


def small(tmp_path, head="plain", **sizes):
    return convert_head(small_model(SmallConfig(**{**SIZES.__dict__, **sizes}), TOKENIZER), head)


def of_timm(tmp_path, **kwargs):
    tower = timm_tower("vit_tiny_patch16_224", 48, {"embed_dim": 24, "depth": 3, "num_heads": 3, **kwargs})
    text = small_text_tower(SIZES, TOKENIZER.vocab_size)
    return Model(tower, text, PlainHead(Widths(tower.width, text.width, 16)), Preprocess(size=48), TOKENIZER)


def siglip(tmp_path):
    return load_model(save_transformers(transformers_siglip(), tmp_path / "siglip"))


MODELS = {
    "class token": open_clip_model,
    "class token, norm after pooling": lambda path: open_clip_model(path, final_ln_after_pool=True),
    "mean": lambda path: open_clip_model(path, pool_type="avg"),
    "class token under SPARC": lambda path: convert_head(open_clip_model(path), "sparc"),
    "small": small,
    "small, class token": lambda path: small(path, pool="class", places="added"),
    "small under FLAIR": lambda path: small(path, "flair"),
    "timm, class token": of_timm,
    "timm, class token and registers": lambda path: of_timm(path, reg_tokens=2, init_values=0.5),
    "timm, mean": lambda path: of_timm(path, global_pool="avg", class_token=False, qk_norm=True),
    "SigLIP": siglip,
}


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    torch.manual_seed(0)
    made = MODELS[request.param](tmp_path)
    return randomised(made, std=0.3)


def pixels_of(model):
    size = model.preprocess.size
    return torch.randint(0, 256, (len(ROWS), 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def found_maps(model):
    read_outs = read_outs_named(model, ["gradient"])
    (look,), grid = looks(read_outs, pixels_of(model))
    found = read_outs[0].maps(look, read_outs[0].ask(PHRASES), ROWS)
    assert [tuple(m.shape) for m in found] == [(len(rows), grid[0] * grid[1]) for rows in ROWS]
    return found


def parts_of(tower):
    """The same few names for both libraries' blocks and nets."""
    net = tower.net
    if isinstance(tower, OpenClipImageTower):
        return SimpleNamespace(
            embed=net._embeds, blocks=net.transformer.resblocks, first=1, mask=None, pool=lambda x: open_clip_pool(net, x),
            qkv=lambda b, x: torch.nn.functional.linear(b.ln_1(x), b.attn.in_proj_weight, b.attn.in_proj_bias).chunk(3, -1),
            heads=lambda b: b.attn.num_heads, norms=lambda b: (torch.nn.Identity(), torch.nn.Identity()),
            rest=lambda b, x, a: (y := x + b.ls_1(b.attn.out_proj(a))) + b.ls_2(b.mlp(b.ln_2(y))),
        )  # fmt: skip
    return SimpleNamespace(
        embed=lambda p: net.norm_pre(net._pos_embed(net.patch_embed(p))), blocks=net.blocks, first=net.num_prefix_tokens,
        mask=tower.near_SS, pool=lambda x: timm_pool(net, x), qkv=lambda b, x: b.attn.qkv(b.norm1(x)).chunk(3, -1),
        heads=lambda b: b.attn.num_heads, norms=lambda b: (b.attn.q_norm, b.attn.k_norm),
        rest=lambda b, x, a: (y := x + b.ls1(b.attn.proj(a))) + b.ls2(b.mlp(b.norm2(y))),
    )  # fmt: skip


def open_clip_pool(net, x):
    normal = net.ln_post(x)
    if net.pool_type == "avg":
        return RawImage(net.ln_post(x[:, 1:].mean(1)) if net.final_ln_after_pool else normal[:, 1:].mean(1), normal[:, 1:])
    return RawImage(normal[:, 0], normal[:, 1:])


def timm_pool(net, x):
    x = net.norm(x)
    return RawImage(net.forward_head(x, pre_logits=True), net.fc_norm(x[:, net.num_prefix_tokens :]))


def attend(weight, v, heads):
    """``[B, G, S, S]`` times values, heads side by side."""
    value = v.unflatten(-1, (heads, -1)).transpose(1, 2)
    return (weight @ value).transpose(1, 2).flatten(2)


def weights(q, k, heads, norms, mask):
    q, k = (norm(x.unflatten(-1, (heads, -1)).transpose(1, 2)) for norm, x in zip(norms, (q, k), strict=True))
    score = q @ k.mT / q.shape[-1] ** 0.5
    return (score if mask is None else score + mask).softmax(-1)


def scores_by_layer(model):
    """For each layer its attention weights (leaves) and a function of them and a text: the cosines ``[B]``, were it the last one."""
    parts, latent = parts_of(model.image_tower), getattr(model.image_tower.net, "attn_pool", None)
    x, layers = parts.embed(model.preprocess.normalise(pixels_of(model)).double()), []
    for block in parts.blocks:
        heads, (q, k, v) = parts.heads(block), parts.qkv(block, x)
        weight = weights(q, k, heads, parts.norms(block), parts.mask)

        def own(weight, text, block=block, x=x, v=v, heads=heads):
            raw = parts.pool(parts.rest(block, x, attend(weight, v, heads)))
            return cosine_similarity(model.head.project_image(raw, NOTHING).pooled_BD, text[None])

        after = parts.rest(block, x, attend(weight, v, heads))
        if latent is None:
            layers.append((weight.detach().requires_grad_(), own))
        else:
            layers.append(latent_layer(model, latent, after))
        x = after
    return parts, layers


def latent_layer(model, pool, x):
    x = model.image_tower.net.norm(x)
    k, v = pool.kv(x).chunk(2, -1)
    weight = weights(pool.q(pool.latent.expand(len(x), -1, -1)), k, pool.num_heads, (pool.q_norm, pool.k_norm), None)

    def own(weight, text):
        y = pool.proj(attend(weight, v, pool.num_heads))
        y = (y + pool.mlp(pool.norm(y)))[:, 0]
        return cosine_similarity(model.head.project_image(RawImage(y), NOTHING).pooled_BD, text[None])

    return weight.detach().requires_grad_(), own


def text_vectors(model):
    tokens = model.tokenizer.encode([phrase.text for phrase in PHRASES])
    with torch.no_grad():
        return model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND.double()


def test_maps_are_the_positive_gradients_of_the_last_layers_attention(model):
    found, text = found_maps(model), text_vectors(model)
    exact = copy.deepcopy(model).double()
    parts, layers = scores_by_layer(exact)
    with torch.no_grad():
        same = cosine_similarity(model.encode_images(pixels_of(model)).pooled_BD.double(), text[0][None])
        torch.testing.assert_close(
            layers[-1][1](layers[-1][0], text[0]), same, rtol=1e-4, atol=1e-5
        )  # the reference is the model
    for n in range(len(PHRASES)):
        expected = []
        for weight, score in layers[-legrad.LAYERS :]:
            slope = torch.autograd.grad(score(weight, text[n]).sum(), weight)[0].clamp(min=0)
            slope = slope if parts.mask is None else slope * (parts.mask == 0)
            first = 0 if slope.shape[2] == 1 else parts.first
            expected.append((slope.mean(1).sum(1) / slope.shape[3])[:, first:])
        expected = sum(expected) / len(expected)
        assert expected.max() > 0
        for b, rows in enumerate(ROWS):
            if n in rows:
                torch.testing.assert_close(
                    found[b][rows.index(n)].double(), expected[b], rtol=2e-3, atol=1e-4 * expected.max().item()
                )


def test_more_attention_to_a_patch_that_lights_up_brings_the_picture_nearer(tmp_path):
    """Without any gradient: one weight of the last layer is raised, and the cosine rises by the value that the read-out is made of."""
    torch.manual_seed(0)
    model = randomised(open_clip_model(tmp_path), std=0.3).double()
    _, layers = scores_by_layer(model)
    text, (weight, score), step = text_vectors(model)[0], layers[-1], 1e-6
    slope = torch.autograd.grad(score(weight, text).sum(), weight)[0]
    moved, total = weight.detach(), torch.zeros(16, dtype=torch.float64)
    for g in range(weight.shape[1]):
        for patch in range(16):
            up, down = moved.clone(), moved.clone()
            up[0, g, 0, 1 + patch] += step
            down[0, g, 0, 1 + patch] -= step
            difference = ((score(up, text) - score(down, text))[0] / (2 * step)).item()
            assert difference == pytest.approx(slope[0, g, 0, 1 + patch].item(), rel=1e-4, abs=1e-8)
            total[patch] += max(0.0, difference) / weight.shape[1] / 17
    old, legrad.LAYERS = legrad.LAYERS, 1
    try:
        torch.testing.assert_close(found_maps(model.float())[0][0].double(), total, rtol=2e-3, atol=1e-6)
    finally:
        legrad.LAYERS = old


def test_pictures_in_parts_give_the_same_and_the_model_is_left_as_it_was(tmp_path, monkeypatch):
    model = small(tmp_path).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = found_maps(model)
    monkeypatch.setattr(legrad, "CELLS", 1)
    for a, b in zip(whole, found_maps(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    block = model.image_tower.net.blocks[-1]
    assert not block._forward_hooks
    assert not block.attn.proj._forward_pre_hooks


def test_an_open_clip_block_gets_its_own_method_back(tmp_path):
    model = open_clip_model(tmp_path).eval()
    found_maps(model)
    assert all("attention" not in block.__dict__ for block in model.image_tower.net.transformer.resblocks)


def test_towers_without_such_attention_are_refused(tmp_path):
    text = small_text_tower(SIZES, TOKENIZER.vocab_size)
    tower = timm_tower("test_efficientnet", 64)
    cnn = Model(tower, text, PlainHead(Widths(tower.width, text.width, 16)), Preprocess(size=64), TOKENIZER)
    for model, words in ((cnn, "EfficientNet"), (convert_head(siglip(tmp_path), "sparc"), "plain Vision Transformer")):
        with pytest.raises(NotSupportedError, match=words):
            read_outs_named(model, ["gradient"])
