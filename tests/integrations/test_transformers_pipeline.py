"""In transformers' own pipeline: an exported folder gives the labels and probabilities that the model gives here."""

import numpy as np
import pytest
from PIL import Image
from read_models import of_open_clip, of_transformers

from wholegrain.towers.export.export import export_model
from wholegrain.workflows.embedder import Embedder

transformers = pytest.importorskip("transformers")
LABELS = ["red cup", "blue hat", "cup"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_open_clip, of_transformers])
def test_zero_shot_image_classification(make, tmp_path):
    model = make(tmp_path)
    export_model(model, tmp_path / "out", "transformers")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    classify = transformers.pipeline("zero-shot-image-classification", model=str(tmp_path / "out"), device="cpu")
    theirs = {row["label"]: row["score"] for row in classify(picture, candidate_labels=LABELS, hypothesis_template="a {}")}
    labels, probabilities = Embedder(model).classify([picture], LABELS, templates="a {}")
    assert max(theirs, key=lambda label: theirs[label]) == labels[0]
    np.testing.assert_allclose([theirs[label] for label in LABELS], probabilities[0], atol=1e-5)
