"""Whole and grain: the definition, pair by pair; what has no phrases is scored as before; every task that scores pairs uses it."""

from __future__ import annotations

import pytest
import torch
from read_models import of_transformers
from tiny_training import make_dataset, make_model

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import default_needs, encode_texts
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.named import load_any
from wholegrain.evaluation.scores.similarity import similarity
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.tasks.composition import composition
from wholegrain.evaluation.tasks.grain_weight import choose_grain
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.whole_and_grain import grain
from wholegrain.towers import load_model, save_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data") / "d", 12)


@pytest.fixture(scope="module")
def model(data):
    return make_model(data, image_size=32).eval()


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def by_definition(image, text_vector, phrases, weight, temperature):
    """One pair, in float64."""
    pooled, patches = image[0].double(), image[1].double()
    whole = unit(pooled) @ unit(text_vector.double())
    parts = []
    for phrase in phrases:
        attention = ((unit(patches) @ unit(phrase.double())) / temperature).softmax(0)
        parts.append(unit(attention @ patches) @ unit(phrase.double()))
    return whole + weight * (sum(parts) / len(parts) if parts else 0)


def check_definition(model, dataset, split, weight=1.5, temperature=0.07):
    wrapped = WholeAndGrain(model, weight, temperature)
    encoded = encode_split(wrapped, dataset, split)
    scores = similarity(encoded.image, encoded.text, wrapped)
    for n, text in enumerate(encoded.texts[:8]):
        spoken = wrapped.phrases_of([text])[0]
        phrases = encode_texts(model, list(spoken)).pooled_ND if spoken else []
        for b in range(4):
            image = encoded.image.pooled_BD[b], encoded.image.patches_BPD[b]
            expected = by_definition(image, encoded.text.pooled_ND[n], phrases, weight, temperature)
            assert abs(float(scores[b, n]) - float(expected)) < 1e-6
    return encoded


def test_the_score_is_its_definition(model, data):
    encoded = check_definition(model, data, "val")
    assert (encoded.text.phrase_weight_NK > 0).sum(1).unique().tolist() == [1, 2]  # "red beside blue" has two


def test_an_untouched_open_clip_model_has_the_score(data):
    torch.manual_seed(0)
    check_definition(load_model("ViT-S-32-alt"), data, "val")


def test_so_has_one_of_hugging_face(data, tmp_path):
    check_definition(of_transformers(tmp_path), data, "val", weight=0.7, temperature=0.03)


def test_a_text_without_phrases_is_scored_by_the_whole(model, data):
    for phrases in (lambda texts: [()] * len(texts), lambda texts: [(text,) if "half" in text else () for text in texts]):
        wrapped = WholeAndGrain(model, 3.0, phrases=phrases)
        encoded = encode_split(wrapped, data, "val")
        none_N = encoded.text.phrase_weight_NK.sum(1) == 0
        assert none_N.any()
        plain = similarity(encoded.image, encoded.text)
        torch.testing.assert_close(similarity(encoded.image, encoded.text, wrapped)[:, none_N], plain[:, none_N], rtol=0, atol=0)


def test_phrases_bind_what_a_mean_cannot_hold():
    """Two pictures with the same patches mixed otherwise: red cup and blue sun, blue cup and red sun."""
    red, blue, cup, sun = torch.eye(4)
    pictures = torch.stack([torch.stack([red + cup, blue + sun]), torch.stack([blue + cup, red + sun])])
    image = ImageFeatures(pictures.mean(1), patches_BPD=pictures, grid=(1, 2))
    phrases = pictures.clone()
    text = TextFeatures(phrases.sum(1), phrases_NKD=phrases, phrase_weight_NK=torch.full((2, 2), 0.5))
    whole = similarity(image, text)
    assert torch.allclose(whole, torch.ones(2, 2))
    # a phrase that is nowhere attends to both places alike: the mean of them, at 45 degrees to it
    torch.testing.assert_close(grain(image, text, 0.02), torch.tensor([[1, 0.5**0.5], [0.5**0.5, 1]]))


def test_tasks_and_shortlists_use_it(model, data):
    wrapped = WholeAndGrain(model, 2.0)
    encoded = encode_split(wrapped, data, "val")
    full, listed = (retrieval(encoded, RetrievalOptions(shortlist=size), model=wrapped) for size in (0, len(encoded.texts)))
    assert full.metrics == listed.metrics
    assert full.metrics != retrieval(encoded).metrics
    with_grain, plain = (composition(scored, data, "test").items["s01"] for scored in (wrapped, model))  # "b" is a phrase, "a" is none
    assert with_grain != plain
    assert WholeAndGrain(model, 0.0).score(encoded.image, encoded.text).equal(similarity(encoded.image, encoded.text))


def test_features_are_cached_with_their_phrases(model, data, tmp_path):
    wrapped = WholeAndGrain(model)
    first, second = (encode_split(wrapped, data, "val", cache=tmp_path) for _ in range(2))
    fresh = encode_split(wrapped, data, "val")
    for encoded in (first, second):
        torch.testing.assert_close(encoded.text.phrases_NKD, fresh.text.phrases_NKD)
        assert encoded.text.phrase_weight_NK.equal(fresh.text.phrase_weight_NK)
    assert encode_split(model, data, "val", cache=tmp_path).text.phrases_NKD is None


def test_weight_and_temperature_are_chosen_on_development_data(model, data):
    found = choose_grain(model, data, "val", weights=(0.0, 1.0), temperatures=(0.1, 0.5))
    assert set(found.tried) == {(0.0, 0.1), (1.0, 0.1), (1.0, 0.5)}
    assert found.tried[found.weight, found.temperature] == max(found.tried.values())
    wrapped = WholeAndGrain(model, 1.0, 0.5)
    figures = retrieval(encode_split(wrapped, data, "val"), RetrievalOptions(by_role=False), model=wrapped)
    both = [figures.figure(f"{side}_retrieval_recall@1").value for side in ("image", "text")]
    assert found.tried[1.0, 0.5] == pytest.approx(sum(both) / 2)


def test_by_name_and_refused_by_name(model, data, tmp_path):
    save_model(model, tmp_path / "m")
    named = load_any(f"{tmp_path / 'm'},grain=2:0.05")
    assert (named.weight, named.temperature, default_needs(named)) == (2.0, 0.05, frozenset({"patches", "phrases"}))
    with pytest.raises(UserError, match="grain=1"):
        load_any(f"{tmp_path / 'm'},grain=much")
    with pytest.raises(UserError, match="jointly already"):
        WholeAndGrain(named)
    for weight, temperature in ((-1.0, 0.1), (1.0, 0.0), (float("nan"), 0.1)):
        with pytest.raises(UserError, match="weight is"):
            WholeAndGrain(model, weight, temperature)
