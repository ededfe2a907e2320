"""In sentence-transformers: exported folders as they are, every other model by a module, with the vectors that the model gives here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from house_models import small
from PIL import Image
from read_models import of_open_clip, of_transformers

from wholegrain.errors import UserError
from wholegrain.integrations.mteb_encoder import mteb_encoder
from wholegrain.integrations.sentence_transformers_module import inputs_of, sentence_transformer
from wholegrain.towers import HeadConfig, convert_head
from wholegrain.towers.export.export import export_model
from wholegrain.workflows.embedder import Embedder

TEXTS = ["a red cup", "a blue hat left of a cup"]


def pictures():
    """Of the models' size: sentence-transformers resizes in its own way."""
    return [Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)) for n in range(3)]


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("sentence_transformers", minversion="5.4")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["open_clip", "siglip"])
def test_an_exported_folder_gives_the_same_vectors(theirs, kind, tmp_path):
    model = of_open_clip(tmp_path) if kind == "open_clip" else of_transformers(tmp_path, "siglip")
    export_model(model, tmp_path / "out", "transformers")
    loaded, ours = theirs.SentenceTransformer(str(tmp_path / "out"), device="cpu"), Embedder(model)
    np.testing.assert_allclose(loaded.encode(TEXTS, normalize_embeddings=True), ours.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(loaded.encode(pictures(), normalize_embeddings=True), ours.embed_images(pictures()), atol=1e-5)


@pytest.mark.slow
def test_any_model_gives_its_own_vectors_in_their_order(theirs, tmp_path):
    ours = Embedder(convert_head(of_open_clip(tmp_path), HeadConfig("branches", branches=3)))
    loaded = sentence_transformer(ours)
    images, texts = ours.embed_images(pictures()), ours.embed_texts(TEXTS)
    np.testing.assert_array_equal(loaded.encode(TEXTS), texts)
    np.testing.assert_allclose(loaded.encode(pictures(), batch_size=2), images, atol=1e-6)
    np.testing.assert_allclose(loaded.encode([{"image": picture} for picture in pictures()]), images, atol=1e-6)
    np.testing.assert_allclose(loaded.encode(["red cup"], prompt="a "), texts[:1], atol=1e-6)
    assert loaded.get_embedding_dimension() == ours.width
    assert np.linalg.norm(images, axis=1).max() < 1 - 1e-5  # else the next line would say nothing
    np.testing.assert_allclose(loaded.similarity(texts, images).numpy(), ours.similarity(pictures(), TEXTS, score="cosine").T, atol=1e-6)
    with pytest.raises(UserError, match="wholegrain export"):
        loaded.save(str(tmp_path / "saved"))


def test_inputs_that_are_no_text_and_no_picture():
    assert inputs_of(["cup", {"text": "hat"}], "a ") == ["a cup", "a hat"]
    for given, words in (({"text": "a", "image": "b"}, "text, image"), ({"audio": 1}, "audio"), (3, "type int")):
        with pytest.raises(UserError, match=words):
            inputs_of([given], "")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match='pip install "sentence-transformers'):
        sentence_transformer(Embedder(small()))
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(UserError, match='pip install "mteb'):
        mteb_encoder(Embedder(small()))


def test_mteb_keeps_the_results_of_two_models_apart(theirs, monkeypatch):
    class Wrapper:
        def __init__(self, model):
            self.mteb_model_meta = SimpleNamespace(model_copy=lambda update: SimpleNamespace(**update))

    monkeypatch.setitem(sys.modules, "mteb.models", SimpleNamespace(SentenceTransformerEncoderWrapper=Wrapper))
    trained = small()
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    first, same, other = (mteb_encoder(Embedder(model, "runs/a/model")).mteb_model_meta for model in (small(), small(), trained))
    assert first.name == other.name == "wholegrain/model"
    assert first.revision == same.revision != other.revision


@pytest.mark.slow
def test_a_task_of_mteb(theirs, tmp_path):
    mteb = pytest.importorskip("mteb")
    from mteb_task import colours_task

    ours = Embedder(of_open_clip(tmp_path))
    result = mteb.evaluate(mteb_encoder(ours, "me/mine"), colours_task(pictures()), cache=None, overwrite_strategy="always")
    assert result.model_name == "me/mine"
    found = result.task_results[0].scores["test"][0]["main_score"]
    scores = ours.similarity(pictures(), ["red", "blue", "green"], score="cosine")
    assert found == pytest.approx(float((scores.argmax(1) == [0, 1, 2]).mean()))
