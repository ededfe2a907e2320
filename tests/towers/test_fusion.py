"""The fusion model: its formula, what reaches the loss, several processes, disk, evaluation, training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import gloo
import pytest
import torch
from tiny_training import make_model, make_recipe, train
from torch import nn

from wholegrain.errors import UserError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core import pair_scores
from wholegrain.losses.itm import ItmLoss
from wholegrain.objectives.recipe import load_recipe
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.heads.fusion import PREFIX, FusionEncoder, FusionHead, FusionSettings, Match
from wholegrain.towers.heads.registry import Widths, build_head


def rough(module, seed=0):
    """Every parameter random, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def encoder(**settings):
    return rough(FusionEncoder(**{"shared": 6, "width": 8, "layers": 2, "heads": 2, **settings})).double()


def inputs(pairs=4, patches=5, tokens=4):
    torch.manual_seed(1)
    mask = torch.arange(tokens) < torch.randint(1, tokens + 1, (pairs, 1))
    image = ImageFeatures(torch.randn(pairs, 6).double(), patches_BPD=torch.randn(pairs, patches, 6).double())
    return image, TextFeatures(torch.randn(pairs, 6).double(), torch.randn(pairs, tokens, 6).double(), mask)


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def attend(layer, asks, offers, heads):
    """Multi-head attention of one sequence to another, head by head."""
    width = asks.shape[-1]
    q, k, v = (
        x @ w.T + b
        for x, w, b in zip((asks, offers, offers), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True)
    )
    found = []
    for g in range(heads):
        part = slice(g * width // heads, (g + 1) * width // heads)
        found.append((q[:, part] @ k[:, part].T / (width / heads) ** 0.5).softmax(-1) @ v[:, part])
    return torch.cat(found, -1) @ layer.out_proj.weight.T + layer.out_proj.bias


def even(x):
    return x / x.norm(dim=-1, keepdim=True) * x.shape[-1] ** 0.5


def test_the_network_is_its_formula():
    net, (image, text) = encoder(), inputs()
    got = net(image, text)
    for m in range(len(got)):
        seen = torch.cat([image.pooled_BD[m][None], image.patches_BPD[m]])
        seen = norm(even(seen) @ net.patch.weight.T + net.patch.bias, net.norm_patch)
        said = torch.cat([text.pooled_ND[m][None], text.tokens_NLD[m][text.mask_NL[m]]])
        x = even(said) @ net.token.weight.T + net.token.bias
        x = torch.cat([x[:1] + net.ask_F, x[1:]])
        for layer in net.layers:
            y = norm(x, layer.norm1)
            x = x + attend(layer.self_attn, y, y, 2)
            x = x + attend(layer.multihead_attn, norm(x, layer.norm2), seen, 2)
            y = norm(x, layer.norm3)
            x = x + layer.linear2(nn.functional.gelu(layer.linear1(y)))
        no, yes = net.answer(norm(x[0], net.norm))
        torch.testing.assert_close(got[m], yes - no)


def test_two_way_cross_entropy_is_the_loss_of_the_log_odds():
    net = encoder()
    kept = []
    net.answer.register_forward_hook(lambda module, args, output: kept.append(output))
    z = net(*inputs())
    label = torch.tensor([1, 0, 0, 1])
    expected = nn.functional.cross_entropy(kept[0], label)
    torch.testing.assert_close(nn.functional.softplus(torch.where(label == 1, -z, z)).mean(), expected)


def test_padding_plays_no_part_and_a_text_without_tokens_is_fine():
    net, (image, text) = encoder(), inputs()
    plain, mask = net(image, text), text.mask_NL
    for filling in (torch.nan, torch.inf, 1e6):
        tokens = torch.where(mask[..., None], text.tokens_NLD, filling)
        longer = torch.cat([tokens, torch.full((4, 3, 6), filling).double()], 1)
        torch.testing.assert_close(net(image, replace(text, tokens_NLD=longer, mask_NL=nn.functional.pad(mask, (0, 3)))), plain)
    assert net(image, replace(text, mask_NL=torch.zeros_like(mask))).isfinite().all()


def test_every_input_matters_and_its_length_does_not():
    net, (image, text) = encoder(), inputs()
    plain = net(image, text)
    patches = image.patches_BPD
    torch.testing.assert_close(net(replace(image, patches_BPD=patches.flip(1)), text), plain)  # a set; places are in the vectors
    torch.testing.assert_close(net(image.select(slice(None)), replace(text, pooled_ND=7 * text.pooled_ND)), plain)
    for other in ({"patches_BPD": patches.roll(1, 0)}, {"pooled_BD": image.pooled_BD.roll(1, 0)}):
        assert (net(replace(image, **other), text) - plain).abs().max() > 1e-3
    for other in ({"tokens_NLD": text.tokens_NLD.roll(1, 0)}, {"pooled_ND": text.pooled_ND.roll(1, 0)}):
        assert (net(image, replace(text, **other)) - plain).abs().max() > 1e-3


def test_at_the_start_a_text_looks_where_it_is_alike():
    torch.manual_seed(0)
    net = FusionEncoder(16, 16, 1, 1)
    assert torch.equal(net.token.weight, net.patch.weight)
    things = torch.eye(16)[:4] * 30  # four patches, four texts of one of them each
    seen = net.norm_patch(net.patch(net._even(things)))
    _, weight = net.layers[0].multihead_attn(
        nn.functional.layer_norm(net.token(net._even(things)), (16,))[None], seen[None], seen[None]
    )
    assert weight[0].argmax(1).tolist() == [0, 1, 2, 3]
    assert weight[0].diagonal().min() > 0.7


def test_gradients_of_inputs_and_of_every_parameter():
    net, (image, text) = encoder(layers=1), inputs(2, 3, 3)
    names, match = [PREFIX + name for name, _ in net.named_parameters()], Match(net)

    def value(pooled, patches, said, tokens, *learned):
        there = ImageFeatures(pooled, patches_BPD=patches, learned=dict(zip(names, learned, strict=True)))
        return match(there, TextFeatures(said, tokens, text.mask_NL))

    given = [image.pooled_BD, image.patches_BPD, text.pooled_ND, text.tokens_NLD]
    leaves = [x.detach().clone().requires_grad_() for x in (*given, *net.parameters())]
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)
    value(*given, *net.parameters()).square().sum().backward()  # the parameters themselves get it
    assert all(p.grad is not None and p.grad.abs().max() > 0 for name, p in net.named_parameters() if "in_proj_bias" not in name)


def test_no_pairs_give_every_parameter_a_gradient_of_zero():
    net = encoder()
    net(*inputs(0)).sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in net.parameters())


# ---- the head ---------------------------------------------------------------------------------------------------------------


def fused(dataset, **settings):
    model = convert_head(
        make_model(dataset).eval(), HeadConfig("fusion", layers=2, fusion_width=8, attention_heads=2, **settings)
    )
    rough(model.head.fusion)
    return model


def encoded(model, needs=frozenset({"patches", "tokens"})):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    tokens = model.tokenizer.encode(["red beside green", "a blue half", "white things", "red"])
    return model.encode_images(pixels, needs), model.encode_texts(tokens.tokens_NL, tokens.length_N, needs)


def test_the_towers_stay_as_they_were_and_the_start_is_undecided(dataset):
    base = make_model(dataset).eval()
    before = encoded(base)
    model = convert_head(make_model(dataset).eval(), HeadConfig("fusion", attention_heads=2))
    image, text = encoded(model)
    assert torch.equal(image.pooled_BD, before[0].pooled_BD)
    assert torch.equal(text.tokens_NLD, before[1].tokens_NLD)
    assert torch.equal(model.score(image, text), torch.zeros(3, 4))


def test_scores_are_those_of_the_loss_pair_by_pair_and_serve_evaluation(dataset, monkeypatch):
    model = fused(dataset)
    image, text = encoded(model)
    with torch.no_grad():
        whole = model.score(image, text)
        for i in range(3):
            alone = image.match(image.select(torch.tensor([i] * 4)), text)
            torch.testing.assert_close(whole[i], alone, rtol=1e-5, atol=1e-5)
        monkeypatch.setattr(pair_scores, "CELLS", 3000)
        torch.testing.assert_close(model.score(image, text), whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(Scorer(image, text, model).rows(1, 3), whole[1:3], rtol=1e-5, atol=1e-5)
        with_cosine = fused(dataset, score_cosine=0.5).score(image, text)
        cosine = nn.functional.normalize(image.pooled_BD, dim=1) @ nn.functional.normalize(text.pooled_ND, dim=1).T
        torch.testing.assert_close(with_cosine, whole + 0.5 * cosine, rtol=1e-5, atol=1e-5)


def test_disk_and_cached_features(dataset, tmp_path):
    model = fused(dataset, score_cosine=0.25)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.head.config() == model.head.config()
    assert isinstance(build_head(model.head.config()), FusionHead)
    with torch.no_grad():
        torch.testing.assert_close(again.score(*encoded(again)), model.score(*encoded(model)))
        fresh = encode_split(model, dataset, "val", cache=tmp_path / "cache")
        kept = encode_split(model, dataset, "val", cache=tmp_path / "cache")
        torch.testing.assert_close(model.score(kept.image, kept.text), model.score(fresh.image, fresh.text))


def test_impossible_sizes_are_refused(dataset):
    with pytest.raises(UserError, match=r"head_settings\.layers is 0"):
        convert_head(make_model(dataset), HeadConfig("fusion", layers=0))
    assert FusionHead(Widths(6, 6, 6), FusionSettings(attention_heads=8)).settings.attention_heads == 6


# ---- several processes ------------------------------------------------------------------------------------------------------


@cache
def head_and_raw():
    from wholegrain.towers.base import RawImage, RawText

    head = rough(FusionHead(Widths(5, 7, 6), FusionSettings(layers=1, fusion_width=8, attention_heads=2))).double()
    torch.manual_seed(3)
    image = RawImage(torch.randn(4, 5).double(), torch.randn(4, 3, 5).double(), None, (1, 3))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    return head, image, RawText(torch.randn(4, 7).double(), torch.randn(4, 3, 7).double(), mask)


class Projected(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, image, text):
        needs = frozenset({"patches", "tokens"})
        return self.head.project_image(image, needs), self.head.project_text(text, needs)


def trained_gradients(rank, group, first, last, texts):
    """Gradients of all parameters under DDP, which waits for every one of them."""
    from wholegrain.towers.base import RawImage, RawText

    head, image, text = head_and_raw()
    module = Projected(head)
    module.zero_grad()
    size = 1
    if group is not None:
        size = torch.distributed.get_world_size(group)
        module = nn.parallel.DistributedDataParallel(module, process_group=group)
    part = RawImage(image.pooled_BV[first:last], image.patches_BPV[first:last], None, (1, 3))
    here = slice(first, first + texts)
    seen, read = module(part, RawText(text.pooled_NV[here], text.tokens_NLV[here], text.mask_NL[here]))
    whole = Pairing.one_to_one(4)
    pairing = Pairing(
        *(
            getattr(whole, name)[here] - (first if name == "owner_N" else 0)
            for name in ("owner_N", "negative_of_N", "role_N", "kind_N", "text_id_N")
        ),
        image_id_B=whole.image_id_B[first:last],
    )
    output = ItmLoss()(seen, read, pairing, torch.tensor(5.0).double(), group=group)
    anchor = sum(p.sum() for name, p in head.named_parameters() if not name.startswith("fusion"))  # stands for the other terms
    ((output.value + 0 * anchor) * size).backward()
    return output.value.detach(), {name: p.grad.clone() for name, p in head.named_parameters()}


@pytest.mark.parametrize("split", [[(0, 1, 1), (1, 4, 3)], [(0, 1, 0), (1, 4, 3)]])
def test_two_processes_give_the_loss_and_every_parameters_gradient_of_one(split):
    shares = gloo.run(2, trained_gradients, split)
    if split[0][2]:
        value, expected = trained_gradients(0, None, 0, 4, 4)
        torch.testing.assert_close(shares[0][0] + shares[1][0], value)
        for name, grad in expected.items():
            torch.testing.assert_close(shares[0][1][name], grad, rtol=1e-8, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
    for name, grad in shares[0][1].items():
        assert torch.equal(grad, shares[1][1][name])
        assert grad.isfinite().all()


# ---- training ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fusion", "ce_fusion"])
def test_recipes_train(dataset, tmp_path, name):
    recipe = make_recipe(name, "--optimiser.steps", "3", "--model.head_settings.layers", "1")
    model = make_model(dataset)
    trained = train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True)
    found = load_model(trained)
    assert found.head.kind == load_recipe(name).model.head == "fusion"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert found.head.fusion.answer.weight.abs().max() > 0


def test_it_learns_what_a_dot_product_of_means_cannot(dataset):
    """Yes if some patch equals some token: bags of both have the same means in every pair."""
    torch.manual_seed(0)
    net = FusionEncoder(8, 16, 1, 2)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(120):
        signs = torch.randint(0, 2, (64, 1, 1)) * 2.0 - 1
        things = torch.randn(64, 1, 8)
        label = torch.rand(64) < 0.5
        patches = torch.cat([things, -things], 1)
        other = torch.randn(64, 1, 8)
        said = torch.where(label[:, None, None], things * signs, other)
        image, nothing = ImageFeatures(torch.zeros(64, 8), patches_BPD=patches), torch.zeros(64, 8)
        z = net(image, TextFeatures(nothing, torch.cat([said, -said], 1), torch.ones(64, 2, dtype=torch.bool)))
        loss = nn.functional.softplus(torch.where(label, -z, z)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert ((z > 0) == label).float().mean() > 0.85
