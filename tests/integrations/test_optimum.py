"""In optimum: an exported folder gives the labels and probabilities that the model gives here. Left out where optimum-onnx is not installed."""

import numpy as np
import pytest
from PIL import Image
from read_models import of_open_clip

from wholegrain.towers.export.export import export_model
from wholegrain.workflows.embedder import Embedder

transformers = pytest.importorskip("transformers")
# optimum-onnx 0.1 asks for transformers below 4.58, and cannot be imported beside a newer one
optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
LABELS = ["red cup", "blue hat", "cup"]


@pytest.mark.slow
def test_its_model_in_the_pipeline(tmp_path):
    pytest.importorskip("onnxscript")
    model = of_open_clip(tmp_path)
    export_model(model, tmp_path / "out", "optimum")
    theirs = optimum.ORTModelForZeroShotImageClassification.from_pretrained(tmp_path / "out")
    parts = {"tokenizer": transformers.AutoTokenizer, "image_processor": transformers.AutoImageProcessor}
    read = {name: part.from_pretrained(tmp_path / "out") for name, part in parts.items()}
    classify = transformers.pipeline("zero-shot-image-classification", model=theirs, device="cpu", **read)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    found = {row["label"]: row["score"] for row in classify(picture, candidate_labels=LABELS, hypothesis_template="a {}")}
    labels, probabilities = Embedder(model).classify([picture], LABELS, templates="a {}")
    assert max(found, key=lambda label: found[label]) == labels[0]
    np.testing.assert_allclose([found[label] for label in LABELS], probabilities[0], atol=1e-5)
