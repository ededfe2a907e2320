"""The loader: draws, batches that do not depend on the number of workers, collation."""

from functools import partial

import pytest
import torch
from tiny_training import SIZE, make_model, make_recipe
from torch.utils.data import DataLoader

from wholegrain.data.batch import Sample, Text, collate, stable_id
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.errors import UserError
from wholegrain.objectives.schema import CaptionDraw, DataRecipe, NegativeDraw
from wholegrain.text.tokenizer import Tokens
from wholegrain.text.trained import train_tokenizer
from wholegrain.training.loading.draw import draw_texts
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.loading.streams import stream, streams


def batches_of(dataset, recipe, start=0, stop=4, workers=0, rank=0, world=1, seed=0):
    model = make_model(dataset)
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, seed)
    plan = Plan(dataset.keys("train"), 8, seed)
    return list(make_loader(samples, PlanSampler(plan, start, stop, rank, world), model.tokenizer, names, workers=workers))


def same(one, other):
    assert one.keys == other.keys
    assert one.texts == other.texts
    for name in ("tokens_UL", "length_U", "row_N"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.views[0].pixels_BCHW, other.views[0].pixels_BCHW)
    for name in ("owner_N", "negative_of_N", "role_N", "kind_N", "text_id_N", "image_id_B"):
        assert torch.equal(getattr(one.pairing, name), getattr(other.pairing, name))


def test_workers_and_the_first_step_change_nothing(dataset):
    recipe = make_recipe("ce_clip", "--data.crop_scale", "[0.3, 1.0]")
    alone = batches_of(dataset, recipe)
    for one, other in zip(alone, batches_of(dataset, recipe, workers=2), strict=True):
        same(one, other)
    for one, other in zip(alone[2:], batches_of(dataset, recipe, start=2), strict=True):
        same(one, other)


def test_two_processes_share_the_global_batch_in_order(dataset):
    recipe = make_recipe("ce_clip")
    whole = batches_of(dataset, recipe)
    parts = [batches_of(dataset, recipe, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert parts[0][step].keys + parts[1][step].keys == batch.keys
        ids = torch.cat([parts[rank][step].pairing.text_id_N for rank in range(2)])
        assert torch.equal(ids, batch.pairing.text_id_N)


def test_another_epoch_and_another_seed_draw_anew(dataset):
    recipe = make_recipe("clip")
    texts = {batch.keys[n]: batch.texts[batch.row_N[n]] for batch in batches_of(dataset, recipe, 0, 3) for n in range(8)}
    later = {batch.keys[n]: batch.texts[batch.row_N[n]] for batch in batches_of(dataset, recipe, 3, 6) for n in range(8)}
    assert texts.keys() == later.keys()
    assert any(texts[key] != later[key] for key in texts)


def test_crops_are_inside_and_depend_on_the_position(dataset):
    recipe = make_recipe("clip", "--data.crop_scale", "[0.2, 0.9]")
    boxes = [batch.views[0].crops_B4 for batch in batches_of(dataset, recipe)]
    crops = torch.cat(boxes)
    area = (crops[:, 2] - crops[:, 0]) * (crops[:, 3] - crops[:, 1]) / SIZE**2
    assert bool((crops >= 0).all())
    assert bool((crops <= SIZE).all())
    assert area.min() > 0.1
    assert area.max() < 1
    assert len(crops.unique(dim=0)) > 8


def test_identical_texts_are_encoded_once():
    record = [Sample(str(n), None, (0, 0, 1, 1), (Text("the same", 0), Text(f"text {n}", 0))) for n in range(3)]

    class Counting:
        def encode(self, texts):
            self.texts = texts
            return Tokens(torch.arange(len(texts))[:, None], torch.ones(len(texts)).long(), torch.zeros(len(texts)) > 0)

    tokenizer = Counting()
    batch = collate(record, tokenizer, ["web"], [])
    assert tokenizer.texts == ["the same", "text 0", "text 1", "text 2"]
    assert batch.tokens_NL.squeeze(1).tolist() == [0, 1, 0, 2, 0, 3]
    assert batch.pairing.owner_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.pairing.text_id_N[0] == batch.pairing.text_id_N[2] == stable_id("the same")


HAS_ROLES = ["web"] * 5 + ["style", "phrase"]
RECORD = Record(
    "key",
    "key.png",
    (4, 4),
    captions=tuple(Caption(f"c{n}", f"{role} {n}", role) for n, role in enumerate(HAS_ROLES)),
)
ROLES = {"web": 0, "style": 1, "phrase": 2}
KINDS = {"a": 0, "b": 1, "c": 2}
NEGATIVES = {
    ("key", f"c{n}"): [Negative("key", f"c{n}", kind, f"not {n} {kind}{i}") for kind in "aab" for i in range(2)] for n in range(5)
}


def draw(position, **recipe):
    return draw_texts(RECORD, NEGATIVES, DataRecipe(**recipe), ROLES, KINDS, stream(0, position, 0))


def test_captions_come_without_replacement_and_never_twice_to_two_draws():
    for position in range(50):
        texts = draw(position, captions=(CaptionDraw(("web",), 2), CaptionDraw(("any",), 4)))
        assert len({text.text for text in texts}) == 6
        assert [text.role for text in texts[:2]] == [0, 0]
    assert len(draw(0, captions=(CaptionDraw(("style",), 3),))) == 1  # fewer if fewer exist


def test_refused_roles_stay_out_and_spread_takes_one_of_each_role_first():
    roles = [{text.role for text in draw(p, captions=(CaptionDraw(("-phrase",), 2, spread=True),))} for p in range(30)]
    assert all(found == {0, 1} for found in roles)
    plain = [{text.role for text in draw(p, captions=(CaptionDraw(("-phrase",), 2),))} for p in range(30)]
    assert {0} in plain
    assert all(2 not in found for found in plain)


def test_negatives_follow_their_caption_one_of_each_kind_first():
    for position in range(30):
        texts = draw(position, captions=(CaptionDraw(("web",), 2),), negatives=NegativeDraw(3))
        assert [text.negative_of for text in texts] == [-1, 0, 0, 0, -1, 4, 4, 4]
        for first in (0, 4):
            number = texts[first].text.split()[1]
            assert all(text.text.startswith(f"not {number} ") for text in texts[first + 1 : first + 4])
            assert {text.kind for text in texts[first + 1 : first + 3]} == {0, 1}
    assert {t.kind for t in draw(0, captions=(CaptionDraw(("web",), 1),), negatives=NegativeDraw(9, ("b",)))} == {-1, 1}


def test_the_dose_is_the_share_of_captions_with_negatives():
    with_some = sum(
        len(draw(p, captions=(CaptionDraw(("web",), 1),), negatives=NegativeDraw(1, dose=0.3))) - 1 for p in range(1000)
    )
    assert 250 < with_some < 350


def test_roles_and_kinds_that_the_data_lack_are_named(dataset):
    with pytest.raises(UserError, match=r"overview.*detail, style, web"):
        names_of(dataset, DataRecipe(captions=(CaptionDraw(("overview",)),)))
    with pytest.raises(UserError, match=r'"swapp".*"swap"'):
        names_of(dataset, DataRecipe(negatives=NegativeDraw(1, ("swapp",))))
    found = names_of(dataset, DataRecipe(captions=(CaptionDraw(("-web",)), CaptionDraw(("phrase",), optional=True))))
    assert found.roles == ("detail", "style")
    assert found.kinds == ()


def test_a_batch_that_processes_cannot_share_is_refused(dataset):
    with pytest.raises(UserError, match="multiple of the 3 processes"):
        PlanSampler(Plan(dataset.keys("train"), 8, 0), 0, 1, 0, 3)


def test_streams_by_the_batch_are_those_of_each_sample():
    for seed in (0, 7, 2**32 - 1, 2**40):
        positions, purposes = [0, 3, 2**31, 2**32 - 1], [0, 1, 100]
        for row, position in zip(streams(seed, positions, purposes), positions, strict=True):
            for made, purpose in zip(row, purposes, strict=True):
                own = stream(seed, position, purpose)
                assert (made.random(3).tolist(), made.integers(9)) == (own.random(3).tolist(), own.integers(9))
    assert streams(0, [2**40], [5])[0][0].random() == stream(0, 2**40, 5).random()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_that_came_through_slots_are_kept(dataset, context, monkeypatch):
    """More batches than places, all kept to the end, of two views: none overwrites another."""
    recipe = make_recipe("clip", "--data.crop_scale", "[0.5, 1.0]", "--data.views", "[{count = 1, crop_scale = [0.2, 0.6]}]")
    monkeypatch.setattr("wholegrain.training.loading.loader._AHEAD", 1)
    monkeypatch.setattr("wholegrain.training.loading.loader.DataLoader", partial(DataLoader, multiprocessing_context=context))
    stop = 12 if context == "fork" else 4
    many = batches_of(dataset, recipe, stop=stop, workers=1)
    monkeypatch.undo()
    for one, other in zip(many, batches_of(dataset, recipe, stop=stop), strict=True):
        same(one, other)
        assert torch.equal(one.views[1].pixels_BCHW, other.views[1].pixels_BCHW)
        assert one.place is None


def test_texts_that_lost_their_end_are_counted():
    long, short = Text("one two three four five six seven eight nine ten", 0), Text("short", 0)
    tokenizer = train_tokenizer([long.text, short.text], 100, 6)
    samples = [Sample(str(n), None, (0, 0, 1, 1), texts) for n, texts in enumerate([(long, short), (long,), (short,)])]
    assert collate(samples, tokenizer, ["web"], []).cut == 2
