"""C2LIP: phrases as columns of a matrix, phrases that several images say, processes, and the recipe."""

import math
from dataclasses import replace

import gloo
import pytest
import torch
from tiny_runs import lines
from tiny_training import make_dataset, make_model, make_recipe, train
from torch.nn.functional import logsigmoid, normalize

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.c2lip import C2lipLoss
from wholegrain.towers.io import load_model
from wholegrain.verify.cases import make_batch
from wholegrain.verify.definitions import definition_named, reference_value

SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
VARIANTS = definition_named("c2lip").variants


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(loss, batch, group=None):
    return loss(batch.image, batch.text, batch.pairing, SCALE, BIAS, group=group).value


def named(batch):
    """Phrases out of four, with ids: most are said by several texts."""
    which = torch.randint(4, batch.text.phrase_weight_NK.shape, generator=torch.Generator().manual_seed(3))
    table = drawn(4, batch.text.pooled_ND.shape[1], seed=9)
    return replace(batch, text=replace(batch.text, phrases_NKD=table[which], phrase_id_NK=2**61 + which))


@pytest.mark.parametrize("image", ["pooled", "attention"])
def test_it_is_the_matrix_of_images_and_phrases(image):
    """Three images with 2, 1 and 0 phrases."""
    pooled, patches, phrases = drawn(3, 6), drawn(3, 5, 6, seed=1), drawn(3, 2, 6, seed=2)
    weight = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    text = TextFeatures(drawn(3, 6, seed=3), phrases_NKD=phrases, phrase_weight_NK=weight)
    columns, owner = normalize(torch.stack([phrases[0, 0], phrases[0, 1], phrases[1, 0]]), dim=1), torch.tensor([0, 0, 1])
    seen = normalize(pooled, dim=1)[:, None].expand(3, 3, 6)
    if image == "attention":
        x = normalize(patches, dim=-1)
        seen = normalize((x @ columns.T).softmax(1).transpose(1, 2) @ x, dim=-1)
    label = torch.where(torch.arange(3)[:, None] == owner, 1.0, -1.0).double()
    expected = -logsigmoid(label * (7 * (seen * columns).sum(-1) - 1.5)).sum() / 3
    given = ImageFeatures(pooled, patches_BPD=patches, grid=(1, 5)), text, Pairing.one_to_one(3), SCALE, BIAS
    torch.testing.assert_close(C2lipLoss(image)(*given).value, expected)


def test_a_phrase_that_two_images_say_is_no_negative_of_either_unless_asked():
    phrase = drawn(1, 1, 6).expand(2, 1, 6)
    ids, weight = torch.full((2, 1), 77), torch.ones(2, 1, dtype=torch.float64)
    text = TextFeatures(drawn(2, 6), phrases_NKD=phrase, phrase_weight_NK=weight, phrase_id_NK=ids)
    image = ImageFeatures(drawn(2, 6, seed=4))
    logit = 7 * normalize(image.pooled_BD, dim=1) @ normalize(phrase[0, 0], dim=0) - 1.5
    given = image, text, Pairing.one_to_one(2), SCALE, BIAS
    torch.testing.assert_close(C2lipLoss()(*given).value, -logsigmoid(logit).mean())
    as_released = C2lipLoss(duplicates="negative")(*given).value
    torch.testing.assert_close(as_released, -logsigmoid(logit).mean() - logsigmoid(-logit).mean())


@pytest.mark.parametrize("name", VARIANTS)
def test_named_phrases_agree_with_loops(name):
    batch = named(make_batch(1)).fresh()
    got, (expected, _) = value(VARIANTS[name], batch), reference_value(VARIANTS[name], batch, SCALE, BIAS)
    torch.testing.assert_close(got, expected)
    leaves = [batch.image.pooled_BD, batch.image.patches_BPD, batch.text.phrases_NKD]
    slopes = [torch.autograd.grad(x, leaves, allow_unused=True, materialize_grads=True) for x in (got, expected)]
    assert slopes[1][0].abs().max() + slopes[1][1].abs().max() > 0
    for place, (one, other) in enumerate(zip(*slopes, strict=True)):
        if place < 2:  # of equal phrases one is read: their gradients are shared out otherwise
            torch.testing.assert_close(one, other)


def share(rank, group, whole, parts):
    here = whole if group is None else whole.part(*parts[rank])
    fresh = here.fresh()
    fresh = replace(fresh, text=replace(fresh.text, phrase_id_NK=here.text.phrase_id_NK))
    found = value(C2lipLoss("attention"), fresh, group)
    found.backward()
    return found.detach(), fresh.image.patches_BPD.grad


def test_phrases_said_in_several_processes_are_one():
    batch, parts = named(make_batch(6)), [(0, 2), (2, 6)]
    shares = gloo.run(2, share, [(batch, parts)] * 2)
    alone = share(0, None, batch, parts)
    torch.testing.assert_close(sum(one[0] for one in shares), alone[0])
    torch.testing.assert_close(torch.cat([one[1] for one in shares]), alone[1])


def test_no_phrase_and_no_bias():
    batch = make_batch(2)
    silent = replace(batch, text=replace(batch.text, phrase_weight_NK=torch.zeros_like(batch.text.phrase_weight_NK)))
    assert value(C2lipLoss(), silent) == 0
    with pytest.raises(ValueError, match="bias"):
        C2lipLoss()(batch.image, batch.text, batch.pairing, SCALE)
    with pytest.raises(ValueError, match="patches"):
        value(C2lipLoss("attention"), replace(batch, image=replace(batch.image, patches_BPD=None)))
    assert "patches" not in C2lipLoss().needs
    with pytest.raises(ValueError, match="temperature"):
        C2lipLoss(temperature=0.0)


def test_the_recipe_trains(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    recipe = make_recipe("c2lip", "--optimiser.steps", "8", "--optimiser.lr", "2e-2", "--data.captions", '[{ roles = ["web", "detail"] }]')
    trained = train(recipe, dataset, make_model(dataset), tmp_path / "run", device="cpu", quiet=True)
    logged = lines(tmp_path / "run")
    assert all(math.isfinite(line["loss/c2lip"]) and math.isfinite(line["loss/c2lip_attention"]) for line in logged)
    assert logged[0]["loss/c2lip"] > 0
    assert sum(line["loss/c2lip"] for line in logged[-2:]) < sum(line["loss/c2lip"] for line in logged[:2])
    found = load_model(trained)
    assert found.head.kind == "plain"
    assert found.bias is not None
