"""The fine-grained losses: against loops, gradients, processes, padding, order, precision, memory; and that they train."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import gloo
import pytest
import torch
from loss_variants import FINE_GRAINED as CASES
from tiny_training import make_model, make_recipe, train

from wholegrain.evaluation.features.encode import encode_texts
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses import filip, gloria
from wholegrain.losses.core import attention_pool, pair_scores
from wholegrain.losses.core.contract import unit
from wholegrain.losses.mgca_prototypes import MgcaPrototypesLoss, balanced
from wholegrain.losses.sparc import SparcLoss
from wholegrain.objectives.recipe import load_recipe
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.verify import cases
from wholegrain.verify.cases import OF_TOKENS, Batch, lean, permuted
from wholegrain.verify.definitions import reference_value

SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
DETACHED = ("sparc-images-detached",)  # the gradient leaves something out on purpose
READS_ORDER = ("flair", "flair-negative", "dreamlip-released")  # the place in the list of texts counts
FROZEN_TARGET = ("prototypes", "prototypes-one")  # targets have no gradient


def make_batch(seed: int = 0, captions=(1, 3, 2, 1, 2, 1), width=5, patches=4, tokens=4, **settings) -> Batch:
    """Small, for loops over words and patches."""
    return cases.make_batch(seed, captions, width=width, patches=patches, tokens=tokens, **settings)


def trimmed(batch: Batch, first: int, last: int) -> Batch:
    """The images ``first`` to ``last`` (exclusive) and their texts, these trimmed to the longest."""
    part = batch.part(first, last)
    longest = int(part.text.mask_NL.sum(1).max()) if len(part.pairing.owner_N) else 1
    return replace(part, text=replace(part.text, **{name: getattr(part.text, name)[:, :longest] for name in (*OF_TOKENS, "mask_NL")}))


def call(loss, batch: Batch, scale=SCALE, bias=BIAS, group=None):
    state = loss.initial_state(()) if hasattr(loss, "initial_state") else None
    return loss(batch.image, batch.text, batch.pairing, scale, bias, state, group=group)


def knobs(dtype=torch.float64):
    return torch.tensor(7.0, dtype=dtype, requires_grad=True), torch.tensor(-1.5, dtype=dtype, requires_grad=True)


def gradients(value, batch, scale, bias):
    leaves = {**batch.leaves(), "scale": scale, "bias": bias}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(leaves.items(), found, strict=True)}


def compare(loss, batch):
    (a_scale, a_bias), (b_scale, b_bias) = knobs(), knobs()
    ours, theirs = batch.fresh(), batch.fresh()
    output, value = call(loss, ours, a_scale, a_bias), reference_value(loss, theirs, b_scale, b_bias)[0]
    torch.testing.assert_close(output.value, value, rtol=1e-9, atol=1e-11)
    got, expected = gradients(output.value, ours, a_scale, a_bias), gradients(value, theirs, b_scale, b_bias)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    return output, expected


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_loops(name):
    output, expected = compare(CASES[name], make_batch(0))
    assert output.value != 0
    assert any(g.abs().max() > 1e-6 for g in expected.values())


@pytest.mark.parametrize("name", CASES)
def test_small_blocks_without_negatives_agree_with_loops(name, monkeypatch):
    monkeypatch.setattr(pair_scores, "CELLS", 50)
    compare(CASES[name], make_batch(1, captions=(2, 1, 2), negatives=0, patches=7, width=4))


@pytest.mark.parametrize("name", CASES)
def test_one_image(name):
    if name not in ("sparc-images", "sparc-images-softmax", "sparc-images-detached"):
        compare(CASES[name], make_batch(4, captions=(2,), duplicates=False))
    assert call(CASES[name], make_batch(4, captions=(2,), duplicates=False)).value.isfinite()


@pytest.mark.parametrize("name", [name for name in CASES if name not in DETACHED + FROZEN_TARGET])
def test_gradcheck(name):
    batch = lean(make_batch(5, captions=(2, 1), patches=3, tokens=3, width=4), CASES[name].needs).fresh()
    leaves = batch.leaves()
    scale, bias = knobs()

    def value(scale, bias, *inputs):
        return call(CASES[name], batch.with_leaves(dict(zip(leaves, inputs, strict=True))), scale, bias).value

    assert torch.autograd.gradcheck(value, (scale, bias, *leaves.values()), fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_order_of_images_texts_and_patches_does_not_matter(name):
    batch = make_batch(6)
    draw = torch.Generator().manual_seed(1)
    images = torch.randperm(len(batch.pairing.image_id_B), generator=draw)
    texts = torch.randperm(len(batch.pairing.owner_N), generator=draw)
    if name in READS_ORDER:
        texts = torch.arange(len(texts))
    if name == "dreamlip-released":  # known: a text's patches follow from both orders
        images = torch.arange(len(images))
    moved = permuted(batch, images, texts)
    patches = moved.image.patches_BPD[:, torch.randperm(moved.image.patches_BPD.shape[1], generator=draw)]
    moved = moved.with_leaves({"patches_BPD": patches})
    torch.testing.assert_close(call(CASES[name], moved).value, call(CASES[name], batch).value, rtol=1e-11, atol=1e-12)


# ---- processes --------------------------------------------------------------------------------------------------------------


def results(loss, batch: Batch, group=None) -> dict[str, torch.Tensor]:
    scale, bias = knobs()
    batch = lean(batch, loss.needs).fresh()
    output = call(loss, batch, scale, bias, group)
    found = {f"grad {name}": g for name, g in gradients(output.value, batch, scale, bias).items()}
    found |= {f"part {name}": x for name, x in output.parts.items() if name != "shuffled"}
    return found | {"value": output.value.detach()}


def all_results(rank, group, batch: Batch, names: list[str]):
    return {name: results(CASES[name], batch, group) for name in names}


@pytest.mark.parametrize("size", [2, 4])
def test_processes_equal_one(size):
    bounds = {2: [(0, 2), (2, 6)], 4: [(0, 1), (1, 2), (2, 5), (5, 6)]}[size]
    batch = make_batch(20)
    parts = [trimmed(batch, *b) for b in bounds]
    assert len({part.text.mask_NL.shape[1] for part in parts}) > 1, "the processes should hold texts of unequal lengths"
    names = list(CASES) if size == 2 else ["filip", "prototypes", "flair"]
    by_rank = gloo.run(size, all_results, [(part, names) for part in parts])
    spread = ("value", "part", "grad scale", "grad bias", "grad learned.")  # shares sum to the whole
    for name in names:
        for key, expected in results(CASES[name], batch).items():
            shares = [found[name][key] for found in by_rank]
            if key == "grad tokens_NLD":
                longest = expected.shape[1]
                shares = [torch.nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for s in shares]
            got = torch.stack(shares).sum(0) if key.startswith(spread) else torch.cat(shares)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10, msg=lambda m, at=f"{name} {key}": f"{at}: {m}")


def test_a_process_without_texts_takes_part():
    whole = make_batch(12)
    kept = (whole.pairing.owner_N > 0).nonzero().squeeze(1)
    whole = Batch(whole.image, whole.text.select(kept), whole.pairing.select_texts(kept))
    names = [name for name in CASES if name not in DETACHED]
    by_rank = gloo.run(2, all_results, [(trimmed(whole, 0, 1), names), (trimmed(whole, 1, 6), names)])
    for name in names:
        total = sum(found[name]["value"] for found in by_rank)
        torch.testing.assert_close(total, results(CASES[name], whole)["value"], msg=lambda m, name=name: f"{name}: {m}")


# ---- what single losses promise ---------------------------------------------------------------------------------------------


def unrelated(images=8, patches=49, tokens=10, width=256) -> Batch:
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(images, patches, width, generator=draw)
    text = torch.randn(images, tokens, width, generator=draw)
    mask = torch.ones(images, tokens, dtype=torch.bool)
    return Batch(ImageFeatures(image[:, 0], patches_BPD=image), TextFeatures(text[:, 0], text, mask), Pairing.one_to_one(images))


@pytest.mark.parametrize("weights", ["minmax", "softmax"])
def test_images_as_rivals_cure_sparc_of_query_leakage(weights):
    """With images that have nothing to do with their captions SPARC's loss is far below chance; among images it is not."""
    batch, scale = unrelated(), torch.tensor(14.0)
    leaking = call(SparcLoss(weights=weights), batch, scale).value.item()
    cured = call(SparcLoss(weights=weights, rivals="images"), batch, scale).value.item()
    assert leaking < 0.7 * math.log(10)
    assert cured > 0.97 * math.log(8)


def test_the_bare_softmax_of_dot_products_saturates():
    batch = unrelated()
    patches, tokens = batch.image.patches_BPD, batch.text.tokens_NLD
    bare = SparcLoss(weights="softmax", temperature=1.0).group_patches(patches, tokens, torch.tensor(14.0))[0]
    tempered = SparcLoss(weights="softmax").group_patches(patches, tokens, torch.tensor(14.0))[0]
    assert bare.amax(2).mean() > 0.8
    assert tempered.amax(2).mean() < 0.3


def test_prototypes_are_balanced_and_held_still_at_first():
    similarity = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)) + torch.tensor([3.0, 0, 0, 0])
    target = balanced(similarity, epsilon=0.5, rounds=50)
    torch.testing.assert_close(target.sum(1), torch.ones(40))
    torch.testing.assert_close(target.sum(0), torch.full((4,), 10.0), rtol=1e-3, atol=1e-3)
    loss, state, moved = MgcaPrototypesLoss(frozen_steps=2), None, []
    for _ in range(3):
        batch = make_batch(0).fresh()
        output = loss(batch.image, batch.text, batch.pairing, SCALE, BIAS, state)
        output.value.backward()
        state = output.state
        moved.append(bool(batch.image.learned["prototypes_KD"].grad.abs().max() > 0))
    assert moved == [False, False, True]


def test_memory_stays_bounded(monkeypatch):
    """No tensor of the forward or backward pass of a word-by-patch loss holds every word by every patch of every pair."""
    monkeypatch.setattr(pair_scores, "CELLS", 20_000)
    images, patches, tokens, width = 24, 30, 12, 8
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            for x in found if isinstance(found, (tuple, list)) else (found,):
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return found

    for name in ("filip", "gloria", "sparc-images"):
        batch = unrelated(images, patches, tokens, width).fresh()
        with Watch():
            call(CASES[name], batch, torch.tensor(7.0)).value.backward()
        assert largest <= 20_000, name
    assert images * images * patches * tokens > 10 * 20_000


# ---- heads, evaluation, training --------------------------------------------------------------------------------------------

HEADS = ("filip", "pacl", "mgca", "flair", "llip", "grain")
SETTINGS = {"llip": {"mixtures": 3, "noise": 0.0}, "mgca": {"prototypes": 5}}


def encoded(model, needs):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return model.encode_images(pixels, needs), encode_texts(model, ["red beside green", "a blue half", "white things", "red"], needs)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("frozen", [False, True])
def test_heads_start_as_their_base_and_come_back_from_disk(dataset, tmp_path, kind, frozen):
    model = make_model(dataset).eval()
    if frozen:
        model.image_tower.tune("none")
    before = encoded(model, frozenset({"patches"}))
    convert_head(model, HeadConfig(kind=kind, **SETTINGS.get(kind, {})))
    needs = frozenset({"patches", "tokens"}) | model.head.gives | model.score_needs
    image, text = encoded(model, needs)
    torch.testing.assert_close(unit(image.pooled_BD), unit(before[0].pooled_BD), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image.patches_BPD, before[0].patches_BPD, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(text.pooled_ND, before[1].pooled_ND)
    if kind == "llip":  # equal tokens: every mixture is the base's vector
        cosine = unit(before[0].pooled_BD) @ unit(text.pooled_ND).T
        torch.testing.assert_close(model.score(image, text), cosine, rtol=1e-4, atol=1e-4)
    assert model.image_frozen == frozen
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.head.config() == model.head.config()
    other = encoded(again, needs)
    assert torch.equal(other[0].pooled_BD, image.pooled_BD)
    if model.score is not None:
        torch.testing.assert_close(again.score(*other), model.score(image, text))


def test_the_empty_slot_of_flair_is_an_attention_of_torch(dataset):
    """The head and the score together are nn.MultiheadAttention with add_zero_attn, as in the released code."""
    torch.manual_seed(0)
    model = convert_head(make_model(dataset).eval(), HeadConfig("flair", attention_heads=2))
    head = model.head
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    width = model.width
    attention = torch.nn.MultiheadAttention(width, 2, batch_first=True, add_zero_attn=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([head.query.weight, head.key.weight, head.value.weight]))
        attention.in_proj_bias.copy_(torch.cat([head.query.bias, head.key.bias, head.value.bias]))
        attention.out_proj.weight.copy_(head.mix.weight)
        attention.out_proj.bias.copy_(head.mix.bias)
        image, text = encoded(model, frozenset({"slots", "patches"}))
        query = head.norm_query(text.pooled_ND).expand(3, -1, -1)
        pooled, _ = attention(query, head.norm_key(image.patches_BPD), head.norm_value(image.patches_BPD))
        expected = (unit(pooled) * unit(text.pooled_ND)).sum(-1)
        torch.testing.assert_close(model.score(image, text), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention_pool.score(image, text, image.learned), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_losses_and_serve_evaluation(dataset):
    model = convert_head(make_model(dataset).eval(), "filip")
    image, text = encoded(model, model.score_needs)
    with torch.no_grad():
        expected = filip.score(image, text)
        scorer = Scorer(image, text, model)
        torch.testing.assert_close(scorer.rows(1, 3), expected[1:3])
        torch.testing.assert_close(scorer.pairs(torch.tensor([2, 0]), torch.tensor([1, 3])), expected[[2, 0], [1, 3]])
        assert gloria.score(image, text).shape == (3, 4)
    assert make_model(dataset).score is None


RECIPES = ("filip", "pacl", "gloria", "mgca", "flair", "llip", "dreamlip", "sparc_images")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_train(dataset, tmp_path, name):
    small = {"llip": ["--model.head_settings.mixtures", "3"], "mgca": ["--model.head_settings.prototypes", "6"]}.get(name, [])
    recipe = make_recipe(name, "--optimiser.steps", "3", *small)
    model = make_model(dataset)
    start = {key: value.clone() for key, value in model.head.state_dict().items()}
    trained = train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True)
    found = load_model(trained)
    assert found.head.kind == load_recipe(name).model.head
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(math.isfinite(line["loss"]) for line in lines)
    after = found.head.state_dict()
    assert any(not torch.equal(value, after[key]) for key, value in start.items())
    for key, value in found.head.named_parameters():
        assert value.isfinite().all(), key
