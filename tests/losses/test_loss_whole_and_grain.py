"""Whole and grain as a loss: what phrases see and cannot see, equal phrases scored once, what is learned, and training by it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.data.batch import Sample, Text, collate
from wholegrain.errors import UserError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.similarity import similarity
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.integrations.open_clip_trainer import OpenClipLoss
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.whole_and_grain import TEMPERATURE, WEIGHT, WholeAndGrainLoss, grain, score
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.verify.cases import Batch, make_batch
from wholegrain.workflows.validation import Validation

SCALE = torch.tensor(7.0, dtype=torch.float64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "d", 12)


def value(loss, batch: Batch, group=None):
    return loss(batch.image, batch.text, batch.pairing, SCALE, group=group).value


# ---- what phrases see, and what they cannot -------------------------------------------------------------------------------------

RED, BLUE, CUP, SUN, DOG, HAT = torch.eye(6, dtype=torch.float64)
WORDS = {"red": RED, "blue": BLUE, "cup": CUP, "sun": SUN, "cups": CUP, "dog": DOG, "hat": HAT, "man": HAT + DOG}


def seen(*places):
    """A picture of some places, each of which shows the words said."""
    patches = torch.stack([sum(WORDS[word] for word in place.split()) for place in places])
    return ImageFeatures(patches.mean(0)[None], patches_BPD=patches[None], grid=(1, len(places)))


def read(*texts):
    """Bags of words, and their noun phrases by the built-in tagger as bags of words."""
    def bag(text):
        return sum((WORDS[word] for word in text.split() if word in WORDS), torch.zeros(6, dtype=torch.float64))

    spoken = NounPhrases()(texts)
    most = max(map(len, spoken))
    vectors = torch.stack([torch.stack([*map(bag, each), *[torch.zeros(6).double()] * (most - len(each))]) for each in spoken])
    weights = torch.tensor([[1 / len(each)] * len(each) + [0.0] * (most - len(each)) for each in spoken], dtype=torch.float64)
    return TextFeatures(torch.stack([bag(text) for text in texts]), phrases_NKD=vectors, phrase_weight_NK=weights)


def test_a_swapped_attribute_is_seen_by_phrases_alone():
    image, text = seen("red cup", "blue sun"), read("a red cup and a blue sun", "a blue cup and a red sun")
    whole, fine = score(image, text, 0.0, 0.02)[0], score(image, text, 1.0, 0.02)[0]
    assert whole[0] == whole[1]
    assert fine[0] - fine[1] == pytest.approx(1 - 0.5**0.5)


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("a red cup left of a blue sun", "a blue sun left of a red cup"),
        ("a man with a hat", "a man without a hat"),
    ],
)
def test_relations_and_negation_are_in_no_phrase(true, false):
    image, text = seen("red cup", "blue sun", "man", "hat"), read(true, false)
    assert set(NounPhrases()([true])[0]) == set(NounPhrases()([false])[0])
    one, other = grain(image, text, 0.05)[0]
    assert one == pytest.approx(other)


def test_how_often_something_is_there_is_not_seen():
    text = read("two red cups")
    one, three = (grain(seen(*["red cup"] * count, *["blue sun"] * 3), text, 0.02) for count in (1, 3))
    torch.testing.assert_close(one, three, rtol=1e-6, atol=1e-6)


# ---- the loss -------------------------------------------------------------------------------------------------------------------


def speechless(batch: Batch) -> Batch:
    return replace(batch, text=replace(batch.text, phrase_weight_NK=torch.zeros_like(batch.text.phrase_weight_NK)))


def test_captions_without_phrases_are_compared_by_the_whole():
    batch = speechless(make_batch(3))
    assert value(WholeAndGrainLoss(negatives="none"), batch) == pytest.approx(float(value(ClipLoss(), batch)), abs=1e-12)
    assert value(WholeAndGrainLoss(), batch) == pytest.approx(float(value(NegclipLoss(), batch)), abs=1e-12)


def test_the_bounds_hold_and_what_is_learned_is_put_back(data):
    model = convert_head(make_model(data), "grain")
    with torch.no_grad():
        model.head.log_weight_1.fill_(50.0)
        model.head.log_temperature_1.fill_(-50.0)
    model.keep_in_range()
    assert model.head.log_weight_1.exp().item() == pytest.approx(WEIGHT[1])
    assert model.head.log_temperature_1.exp().item() == pytest.approx(TEMPERATURE[0])


# ---- batches --------------------------------------------------------------------------------------------------------------------


def sample(key, *texts):
    return Sample(key, torch.zeros(3, 4, 4, dtype=torch.uint8), (0.0, 0.0, 4.0, 4.0), texts)


def test_a_batch_encodes_every_distinct_phrase_once(data):
    samples = [
        sample("a", Text("a red cup on a table", 0), Text("a blue cup on a table", 0, 0, 0)),
        sample("b", Text("a red cup", 0), Text("running", 0)),
    ]
    batch = collate(samples, make_model(data).tokenizer, ["web"], ["swap"], phrases=NounPhrases())
    assert batch.texts == ("a red cup on a table", "a blue cup on a table", "a red cup", "running", "a table", "a blue cup")
    assert batch.row_N.tolist() == [0, 1, 2, 3]
    rows, weights = batch.phrases.row_NK.tolist(), batch.phrases.weight_NK.tolist()
    spoken = [[batch.texts[r] for r, w in zip(*each, strict=True) if w] for each in zip(rows, weights, strict=True)]
    assert spoken == [["a red cup", "a table"], ["a blue cup", "a table"], ["a red cup"], []]
    assert batch.phrases.weight_NK.sum(1).tolist() == [1, 1, 1, 0]
    assert batch.phrases.id_NK[0, 0] == batch.pairing.text_id_N[2]
    features = TextFeatures(torch.arange(6.0)[:, None])
    assert batch.laid_out(features).phrases_NKD.squeeze(2).tolist() == [[2, 4], [5, 4], [2, 0], [0, 0]]
    turned = torch.tensor([5, 4, 3, 2, 1, 0])
    moved = batch.laid_out(features.select(turned), turned)
    assert moved.phrases_NKD.equal(batch.laid_out(features).phrases_NKD)
    assert collate(samples, None, ["web"], ["swap"]).phrases is None


def test_phrases_come_through_loading_workers(data):
    recipe = make_recipe("whole_and_grain")
    model, names = make_model(data), names_of(data, recipe.data)
    samples = DrawnSamples(data, model.preprocess, recipe.data, names, 0)
    found = []
    for workers in (0, 2):
        plan = PlanSampler(Plan(data.keys("train"), 8, 0), 0, 2)
        found.append(list(make_loader(samples, plan, model.tokenizer, names, workers=workers, phrases=NounPhrases())))
    for here, there in zip(*found, strict=True):
        assert here.texts == there.texts
        assert all(getattr(here.phrases, name).equal(getattr(there.phrases, name)) for name in ("row_NK", "weight_NK", "id_NK"))


# ---- training, evaluation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [True, False])
def test_a_trained_model_scores_by_what_it_has_learned(data, tmp_path, learned):
    words = ("--optimiser.steps", "12", "--optimiser.lr", "3e-3", "--model.head_settings.learned", str(learned).lower())
    recipe = make_recipe("whole_and_grain", *words, "--data.captions", '[{roles=["web"]}, {roles=["detail"]}]')
    train(recipe, data, make_model(data), tmp_path / "run", device="cpu", quiet=True)
    model = load_model(tmp_path / "run").eval()
    weight, temperature = model.head.log_weight_1.exp().item(), model.head.log_temperature_1.exp().item()
    assert ((weight, temperature) == pytest.approx((1.0, 0.1))) != learned
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["loss/whole_and_grain/weight"] == pytest.approx(weight, rel=0.2)
    encoded = encode_split(model, data, "val")
    scores = similarity(encoded.image, encoded.text, model)
    plain = WholeAndGrain(convert_head(load_model(tmp_path / "run").eval(), "plain"), weight, temperature)
    torch.testing.assert_close(scores, similarity(encoded.image, encoded.text, plain), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(scores, similarity(encoded.image, encoded.text), atol=1e-3)
    full, listed = (retrieval(encoded, RetrievalOptions(shortlist=size), model=model) for size in (0, len(encoded.texts)))
    assert full.metrics == listed.metrics
    save_model(model, tmp_path / "again")
    assert load_model(tmp_path / "again").head.log_weight_1.item() == model.head.log_weight_1.item()


def test_validation_of_a_frozen_text_tower_is_that_of_a_live_one(data):
    model = convert_head(make_model(data, image_size=32).eval(), HeadConfig("grain", weight=3.0))
    live = Validation(data)(model)
    assert live != Validation(data)(convert_head(make_model(data, image_size=32).eval(), "plain"))
    model.text_tower.tune("none")
    assert Validation(data, say=lambda _: None)(model) == pytest.approx(live)


def test_training_on_a_frozen_text_tower_knows_all_phrases(data, tmp_path, monkeypatch):
    recipe = make_recipe("whole_and_grain", "--model.tune_text", "none", "--optimiser.steps", "20")
    losses = {}
    for kept in (True, False):
        losses[kept] = []
        if not kept:
            monkeypatch.setattr("wholegrain.training.trainer.make_encoder", lambda run, *_: Encoder(run.model))
        keep = losses[kept].append
        train(recipe, data, make_model(data), tmp_path / str(kept), device="cpu", quiet=True, on_step=lambda o, keep=keep: keep(o.loss))
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_other_settings_begin_anew_and_what_is_learned_stays(data):
    model = convert_head(make_model(data), HeadConfig("grain", weight=2.0))
    with torch.no_grad():
        model.head.log_weight_1.fill_(1.0)
        model.head.log_temperature_1.fill_(-1.0)
    assert convert_head(model, "grain").head.log_weight_1.item() == 1
    convert_head(model, HeadConfig("grain", weight=0.5))
    assert model.head.log_weight_1.exp().item() == pytest.approx(0.5)
    assert model.head.log_temperature_1.item() == -1


def test_open_clips_trainer_refuses_it():
    with pytest.raises(UserError, match="wholegrain train"):
        OpenClipLoss("whole_and_grain")


def test_pairing_one_to_one_needs_no_negatives():
    patches, vectors = torch.randn(3, 4, 5), torch.randn(3, 5)
    learned = {"grain_log_weight_1": torch.zeros(1), "grain_log_temperature_1": torch.zeros(1)}
    image = ImageFeatures(vectors, patches_BPD=patches, grid=(2, 2), learned=learned)
    text = TextFeatures(vectors, phrases_NKD=vectors[:, None], phrase_weight_NK=torch.ones(3, 1))
    found = WholeAndGrainLoss()(image, text, Pairing.one_to_one(3), 10.0)
    assert found.parts["weight"] == 1
