"""In FiftyOne: the interface of its models, and a data set of its own where it is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from house_models import small

from wholegrain.errors import UserError
from wholegrain.integrations.fiftyone_model import FiftyOneModel, fiftyone_model
from wholegrain.workflows.embedder import Embedder

OURS = Embedder(small())
LABELS = ["a red cup", "a blue hat"]
INTERFACE = ("media_type", "has_logits", "has_embeddings", "can_embed_prompts", "ragged_batches", "transforms", "preprocess")
"""What ``fiftyone.core.models.Model`` of FiftyOne 1.22 asks of its subclasses to state."""


def pictures():
    sizes = ((32, 40), (24, 24), (50, 30))
    return [np.random.default_rng(n).integers(0, 256, (*size, 3), dtype=np.uint8) for n, size in enumerate(sizes)]


def test_vectors_are_the_models_one_or_many():
    model = FiftyOneModel(OURS)
    images, texts = OURS.embed_images(pictures()), OURS.embed_texts(LABELS)
    np.testing.assert_array_equal(model.embed_all(pictures()), images)
    np.testing.assert_allclose(model.embed(pictures()[1]), images[1], atol=1e-6)
    assert model.get_embeddings().shape == (1, OURS.width)
    np.testing.assert_array_equal(model.embed_prompts(LABELS), texts)
    np.testing.assert_allclose(model.embed_prompt(LABELS[1]), texts[1], atol=1e-6)
    with model as same:
        assert same is model


def test_labels_are_those_of_classify(monkeypatch):
    module = SimpleNamespace(Classification=lambda label, confidence: (label, confidence))
    for name in ("fiftyone", "fiftyone.core"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "fiftyone.core.labels", module)
    model = FiftyOneModel(OURS, LABELS, ["a photo of {}."])
    labels, probabilities = OURS.classify(pictures(), LABELS, templates=["a photo of {}."])
    found = model.predict_all(pictures())
    assert [label for label, _ in found] == labels
    np.testing.assert_allclose([confidence for _, confidence in found], probabilities.max(1))
    np.testing.assert_array_equal(model.get_embeddings(), OURS.embed_images(pictures()))
    assert model.predict(pictures()[0])[0] == labels[0]
    assert model.get_embeddings().shape == (1, OURS.width)


def test_one_text_is_no_list_of_labels_but_one_template():
    with pytest.raises(UserError, match=r"The labels are the text 'cat'; give a list of texts"):
        FiftyOneModel(OURS, "cat")
    assert FiftyOneModel(OURS, LABELS, "photo").templates == ["photo"]


def test_without_labels_and_without_the_package_it_says_so(monkeypatch):
    with pytest.raises(UserError, match="labels="):
        FiftyOneModel(OURS).predict(pictures()[0])
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(UserError, match="pip install fiftyone"):
        fiftyone_model(OURS)


def test_it_is_a_model_of_fiftyone(monkeypatch):
    """With FiftyOne's own classes; its data sets would need a MongoDB."""
    monkeypatch.setenv("FIFTYONE_DISABLE_SERVICES", "1")
    theirs = pytest.importorskip("fiftyone.core.models")
    labels = pytest.importorskip("fiftyone.core.labels")
    model = fiftyone_model(OURS, LABELS)
    assert isinstance(model, theirs.Model)
    assert isinstance(model, theirs.EmbeddingsMixin)
    assert isinstance(model, theirs.PromptMixin)
    assert [getattr(model, name) for name in INTERFACE] == ["image", False, True, True, False, None, True]
    assert theirs._parse_batch_size(2, model, False) == 2  # pictures come in batches
    found = model.predict(pictures()[0])
    assert isinstance(found, labels.Classification)
    assert found.label in LABELS
    np.testing.assert_array_equal(model.embed_all(pictures()), OURS.embed_images(pictures()))
