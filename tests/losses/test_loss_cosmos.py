"""COSMOS: text crops, cross-attention, the loss against the released arithmetic and loops, several processes, training."""

import json
import math
from dataclasses import replace

import gloo
import numpy as np
import pytest
import torch
from tiny_training import make_model, make_recipe, train
from torch.nn.functional import cross_entropy, normalize

from wholegrain.data.record import Caption, Record, caption_id
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core import tiles
from wholegrain.losses.cosmos import CosmosLoss
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import CaptionDraw, DataRecipe
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.training.loading.draw import draw_texts, sentences_of
from wholegrain.training.loading.streams import stream
from wholegrain.verify.cases import lone_pair, make_batch, padded_with, permuted, without_texts
from wholegrain.verify.definitions import definition_named, reference_value

SCALE = torch.tensor(7.0, dtype=torch.float64)
VARIANTS = definition_named("cosmos").variants
CROSS = frozenset({"cross"})


def call(loss, batch, scale=SCALE, group=None):
    return loss(batch.image, batch.text, batch.pairing, scale, None, None, group=group)


# ---- the formula ------------------------------------------------------------------------------------------------------------


def regular(images=4, texts=3, wholes=2, width=6, heads=2, patches=5, tokens=4, draw=None):
    """Three views (two of them the teacher's), three texts an image (two of them whole), image by image."""
    draw = draw or torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    inner = width // heads
    learned = {f"cross_{side}_DA": normal(width, width) for side in ("image", "text")}
    learned |= {f"cross_{side}_D": normal(width) for side in ("image", "text")}
    learned["cross_log_scale_1"] = torch.tensor([math.log(5.0)], dtype=torch.float64)
    views = [ImageFeatures(normal(images, width), query_BGE=normal(images, heads, inner)) for _ in range(3)]
    views = [replace(v, teacher=ImageFeatures(normal(images, width)) if n < 2 else None) for n, v in enumerate(views)]
    keys, values = normal(images, heads, patches, inner), normal(images, heads, patches, inner)
    image = replace(views[0], keys_BGSE=keys, values_BGSE=values, learned=learned, views=tuple(views[1:]))
    count = images * texts
    text = TextFeatures(
        normal(count, width),
        mask_NL=torch.ones(count, tokens, dtype=torch.bool),
        query_NGE=normal(count, heads, inner),
        keys_NLGE=normal(count, tokens, heads, inner),
        values_NLGE=normal(count, tokens, heads, inner),
        teacher=TextFeatures(normal(count, width)),
    )
    one = Pairing.one_to_one(count)
    role = (torch.arange(count) % texts >= wholes).long()
    owner = torch.arange(images).repeat_interleave(texts)
    pairing = replace(one, owner_N=owner, role_N=role, image_id_B=torch.arange(images), roles=("global", "local"))
    return replace(make_batch(0), image=image, text=text, pairing=pairing)


def attend(query, keys, values, out, shift):
    """Released AttentionalCrossPooler after its projections: nn.MultiheadAttention's arithmetic for one query an item."""
    weight = torch.einsum("nge,nsge->ngs", query, keys).softmax(-1)
    return torch.einsum("ngs,nsge->nge", weight, values).flatten(1) @ out.T + shift


def test_it_is_the_released_arithmetic_where_nothing_is_missing():
    """All InfoNCEs written out over matrices, averaged and summed as in the released COSMOSLoss."""
    batch, images, texts = regular(), 4, 3
    image, text, learned = batch.image, batch.text, batch.image.learned
    views = [image, *image.views]

    def nce(a, b, scale):
        logits, target = scale * normalize(a, dim=1) @ normalize(b, dim=1).T, torch.arange(images)
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    def clip_loss(rows, columns, scale):
        return sum(nce(a, b, scale) for a in rows for b in columns) / (len(rows) * len(columns))

    said = [text.pooled_ND[k::texts] for k in range(texts)]
    t_images, t_texts = [v.teacher.pooled_BD for v in views[:2]], [text.teacher.pooled_ND[k::texts] for k in range(2)]
    out, shift = learned["cross_image_DA"], learned["cross_image_D"]
    words = text.keys_NLGE[::texts], text.values_NLGE[::texts]
    h_images = [v.pooled_BD + attend(v.query_BGE, *words, out, shift) for v in views]
    patches = image.keys_BGSE.transpose(1, 2), image.values_BGSE.transpose(1, 2)
    out, shift = learned["cross_text_DA"], learned["cross_text_D"]
    h_texts = [said[k] + attend(text.query_NGE[k::texts], *patches, out, shift) for k in range(texts)]
    distilled = sum(clip_loss(h, t, 5.0) for h in (h_images, h_texts) for t in (t_images, t_texts)) / 4
    expected = clip_loss([v.pooled_BD for v in views[:2]], said, SCALE) + distilled
    output = call(CosmosLoss(whole=("global",)), batch)
    torch.testing.assert_close(output.value, expected)
    assert set(output.parts) == {"contrast", "image_image", "image_text", "text_image", "text_text"}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("captions", [(1, 3, 2, 1, 2, 1), (2,), (1, 0, 3)])
def test_ragged_batches_agree_with_loops(name, captions):
    batch, loss = make_batch(len(captions), captions=captions, duplicates=len(captions) > 2).fresh(), VARIANTS[name]
    value = call(loss, batch).value
    expected, _ = reference_value(loss, batch, SCALE, SCALE)
    torch.testing.assert_close(value, expected)
    leaves = batch.leaves()
    got = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    theirs = torch.autograd.grad(expected, list(leaves.values()), allow_unused=True)
    for key, one, other in zip(leaves, got, theirs, strict=True):
        one, other = (torch.zeros_like(leaves[key]) if g is None else g for g in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")


def test_gradcheck():
    batch, loss = regular(2, 2, 1, 4, 2, 2, 2), CosmosLoss(whole=("global",))
    names = [name for name in batch.leaves() if name != "learned.cross_log_scale_1"]

    def value(*parts):
        return call(loss, batch.with_leaves(dict(zip(names, parts, strict=True)))).value

    inputs = [batch.leaves()[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)


def test_order_padding_and_small_tiles_change_nothing(monkeypatch):
    batch, loss = make_batch(0), CosmosLoss(whole=("overview", "web"))
    expected = call(loss, batch).value
    images = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(call(loss, permuted(batch, images, torch.arange(len(batch.pairing.owner_N)))).value, expected)
    for filling in (0.0, 1e6, math.nan):
        torch.testing.assert_close(call(loss, padded_with(batch, filling)).value, expected)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 4, "accelerator": 4})
    monkeypatch.setattr(tiles, "KEPT", 0)
    torch.testing.assert_close(call(loss, batch).value, expected)


def test_copies_are_no_rivals():
    """Of two pairs that are copies of each other nothing is to be told apart; as negatives they are."""
    batch = regular(2)
    copies = replace(batch, pairing=replace(batch.pairing, image_id_B=torch.zeros(2, dtype=torch.int64)))
    assert call(CosmosLoss(whole=("global",)), copies).value.abs() < 1e-12
    assert call(CosmosLoss(whole=("global",), duplicates="negative"), copies).value > 0.1


def test_weights_and_roles_say_what_counts():
    batch, parts = regular(), {}
    for name, loss in {
        "both": CosmosLoss(whole=("global",)),
        "contrast": CosmosLoss(whole=("global",), distillation=0.0),
        "distillation": CosmosLoss(whole=("global",), contrast=0.0),
    }.items():
        parts[name] = call(loss, batch).value
    torch.testing.assert_close(parts["both"], parts["contrast"] + parts["distillation"])
    local = batch.pairing.role_N == 1
    moved = batch.with_leaves({"teacher.pooled_ND": torch.where(local[:, None], -1.0, batch.text.teacher.pooled_ND)})
    assert torch.equal(call(CosmosLoss(whole=("global",)), moved).value, parts["both"]), "what a teacher says of a local text"
    assert not torch.equal(call(CosmosLoss(), moved).value, call(CosmosLoss(), batch).value)
    own = batch.with_leaves({"learned.cross_log_scale_1": torch.tensor([1.0], dtype=torch.float64)})
    assert not torch.equal(call(CosmosLoss(whole=("global",), contrast=0.0), own).value, parts["distillation"])
    assert torch.equal(call(CosmosLoss(whole=("global",), distillation=0.0), own).value, parts["contrast"])


def test_little_or_nothing_there():
    loss = CosmosLoss()
    assert call(loss, lone_pair(make_batch(3))).value.abs() < 1e-12
    for batch in (without_texts(make_batch(3)), make_batch(3).map(torch.zeros_like), make_batch(4, captions=(0, 2, 0))):
        fresh = batch.fresh()
        output = call(loss, fresh)
        output.value.backward()
        assert output.value.isfinite()
        assert all(x.grad is None or x.grad.isfinite().all() for x in fresh.leaves().values())
    nowhere = make_batch(3)
    unmasked = replace(nowhere, text=replace(nowhere.text, mask_NL=torch.zeros_like(nowhere.text.mask_NL)))
    assert call(loss, unmasked).value.isfinite()
    rounded = make_batch(9).map(lambda x: x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = call(loss, rounded, SCALE.float()).value
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), call(loss, rounded.map(lambda x: x.double())).value, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cosmos"):
        loss(ImageFeatures(torch.eye(2)), TextFeatures(torch.eye(2)), Pairing.one_to_one(2), SCALE)


def in_process(rank, group, batch, names):
    found = {}
    for name in names:
        fresh = batch.fresh()
        output = call(VARIANTS[name], fresh, group=group)
        output.value.backward()
        grads = {key: torch.zeros_like(x) if x.grad is None else x.grad for key, x in fresh.leaves().items()}
        found[name] = output.value.detach(), grads
    return found


@pytest.mark.parametrize("bounds", [((0, 2), (2, 6)), ((0, 5), (5, 6))])
def test_two_processes_equal_one(bounds):
    batch = make_batch(20)
    alone = in_process(0, None, batch, VARIANTS)
    shares = gloo.run(2, in_process, [(batch.part(*bound), VARIANTS) for bound in bounds])
    for name in VARIANTS:
        torch.testing.assert_close(shares[0][name][0] + shares[1][name][0], alone[name][0])
        for key, expected in alone[name][1].items():
            grads = [share[name][1][key] for share in shares]
            got = sum(grads) if key.startswith("learned.") else torch.cat(grads)
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10, msg=lambda m, at=f"{name} {key}": f"{at}: {m}")


# ---- text crops -------------------------------------------------------------------------------------------------------------

LONG = "A red cup. It stands on a table!\nThe table is 1.5 m wide. Behind it hangs a clock"


def record_of(*texts):
    return Record("k", "k.png", (8, 8), captions=tuple(Caption(caption_id(t), t, role) for t, role in texts))


def crops_of(record, *draws, position=0):
    recipe, roles = DataRecipe(captions=draws), {"global": 0, "local": 1, "web": 2, "phrase": 3}
    return draw_texts(record, {}, recipe, roles, {}, stream(0, position, 0))


def test_text_crops_are_sentences_of_the_chosen_roles():
    assert sentences_of(LONG) == ["A red cup", "It stands on a table!", "The table is 1.5 m wide", "Behind it hangs a clock"]
    assert sentences_of(" ... ") == []
    record, pool = record_of((LONG, "web"), ("cup", "phrase")), set(sentences_of(LONG))
    draws = (
        CaptionDraw(("-phrase",), 2, sentences=(2, 3), name="global"),
        CaptionDraw(("-phrase",), 6, sentences=(1, 1), name="local"),
    )
    sizes, seen = set(), set()
    for position in range(30):
        texts = crops_of(record, *draws, position=position)
        assert [text.role for text in texts] == [0, 0] + [1] * 6
        for whole in texts[:2]:
            said = [s for s in pool if s in whole.text]
            sizes.add(len(said))
            assert ". ".join(sorted(said, key=whole.text.index)) == whole.text
        local = [text.text for text in texts[2:]]
        assert set(local[:4]) == pool, "none comes twice before all have come"
        seen.add(tuple(local))
    assert sizes == {2, 3}
    assert len(seen) > 10
    assert crops_of(record, *draws, position=3) == crops_of(record, *draws, position=3)


def test_whole_captions_are_drawn_as_before_and_come_first():
    record = record_of((LONG, "web"), ("cup", "phrase"))
    plain = crops_of(record, CaptionDraw(("any",), 2))
    mixed = crops_of(record, CaptionDraw(("web",), 1, sentences=(1, 2), name="global"), CaptionDraw(("any",), 2))
    assert mixed[:2] == plain
    assert mixed[2].role == 0
    assert crops_of(record_of(("cup", "phrase")), CaptionDraw(("web",), 3, sentences=(1, 1), name="local")) == ()
    short = crops_of(record_of(("one thing", "web")), CaptionDraw(("web",), 3, sentences=(1, 5), name="global"))
    assert [text.text for text in short] == ["one thing"] * 3


@pytest.mark.parametrize(("draw", "said"), [("sentences = [1, 2]", "name"), ('sentences = [2, 1], name = "x"', "sentences")])
def test_impossible_crops_are_refused(draw, said):
    with pytest.raises(UserError, match=said):
        make_recipe("clip", "--data.captions", f'[{{ roles = ["any"], {draw} }}]')


# ---- head and training ------------------------------------------------------------------------------------------------------


def encoded(model, needs=CROSS):
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    tokens = model.tokenizer.encode(["red beside green", "a blue half", "white things"])
    return model.encode_images(pixels, needs), model.encode_texts(tokens.tokens_NL, tokens.length_N, needs)


def test_the_head_starts_as_its_base_comes_back_and_is_torchs_attention(dataset, tmp_path):
    model = make_model(dataset).eval()
    before = encoded(model, frozenset({"patches", "tokens"}))
    convert_head(model, HeadConfig("cosmos", attention_heads=2))
    image, text = encoded(model)
    assert torch.equal(image.pooled_BD, before[0].pooled_BD)
    assert torch.equal(text.pooled_ND, before[1].pooled_ND)
    assert (image.patches_BPD, text.tokens_NLD) == (None, None)
    assert image.learned["cross_image_DA"].abs().max() == 0, "crossed features start as the plain ones"
    assert encoded(model, frozenset())[0].query_BGE is None
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").head.config() == model.head.config()
    attention, cross, width = torch.nn.MultiheadAttention(model.width, 2, batch_first=True), model.head.to_words, model.width
    for parameter in cross.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([cross.query.weight, cross.key.weight, cross.value.weight]))
        attention.in_proj_bias.copy_(torch.cat([cross.query.bias, cross.key.bias, cross.value.bias]))
        attention.out_proj.weight.copy_(cross.mix.weight)
        attention.out_proj.bias.copy_(cross.mix.bias)
        image, text = encoded(model)
        words = cross.norm_slot(before[1].tokens_NLD)
        hidden = ~before[1].mask_NL
        expected, _ = attention(cross.norm_query(image.pooled_BD)[:, None], words, words, key_padding_mask=hidden)
        weight = (
            torch.einsum("bge,blge->bgl", image.query_BGE, text.keys_NLGE).masked_fill(hidden[:, None], -math.inf).softmax(-1)
        )
        seen = torch.einsum("bgl,blge->bge", weight, text.values_NLGE).flatten(1) @ cross.mix.weight.T + cross.mix.bias
        torch.testing.assert_close(seen, expected[:, 0], rtol=1e-4, atol=1e-5)
    assert width == model.width


SMALL = (
    "--data.views",
    "[{count = 1, crop_scale = [0.4, 1.0]}, {count = 2, crop_scale = [0.1, 0.4]}]",
    "--teacher.momentum",
    "0.9",
)


class KilledError(Exception):
    pass


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_keeps_the_teacher(dataset, tmp_path):
    recipe, losses = make_recipe("cosmos", "--saving.every", "3", "--optimiser.lr", "3e-3", "--optimiser.steps", "8", *SMALL), {}

    def kill(outcome):
        if outcome.step == 4:
            raise KilledError

    train(recipe, dataset, make_model(dataset), tmp_path / "whole", device="cpu", quiet=True)
    with pytest.raises(KilledError):
        train(recipe, dataset, make_model(dataset), tmp_path / "cut", device="cpu", quiet=True, on_step=kill)
    train(recipe, dataset, load_model(tmp_path / "cut"), tmp_path / "cut", device="cpu", quiet=True, resume=True)
    for name in ("whole", "cut"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in lines]
    assert losses["whole"] == losses["cut"]
    assert np.mean(losses["whole"][-3:]) < np.mean(losses["whole"][:3])
    one, other = (load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert any(key.startswith("head.to_words") for key in one)


def test_what_the_recipe_needs_is_said(dataset, tmp_path):
    for override, said in (
        (("--data.views", "[]"), 'needs "views"'),
        (("--model.head", "plain"), 'needs "cross"; set model.head to "cosmos"'),
        (("--teacher.kind", "none", "--teacher.keep", "student"), 'needs "teacher"'),
    ):
        with pytest.raises(UserError, match=said):
            train(make_recipe("cosmos", *override), dataset, make_model(dataset), tmp_path / "run", device="cpu", quiet=True)
    assert load_recipe("cosmos").terms[0].settings == {"whole": ["global"]}
