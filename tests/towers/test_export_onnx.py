"""ONNX graphs, run by onnxruntime at sizes that they were not made with; joint scores in their dense form."""

import json
from pathlib import Path

import pytest
import torch
from house_models import CONFIG, TOKENIZER, small
from read_models import of_open_clip, of_transformers
from tiny_models import pixels, randomised
from torch.nn.functional import cosine_similarity

from wholegrain.errors import UserError
from wholegrain.text.tokenizer import load_tokenizer
from wholegrain.towers import HeadConfig, convert_head
from wholegrain.towers.export.comparison import TEXTS, Sample, distance
from wholegrain.towers.export.dense_scores import dense_score
from wholegrain.towers.export.export import export_model
from wholegrain.towers.export.int8 import INT8, OnnxModel, check_int8, write_int8
from wholegrain.towers.sources.small import SmallConfig, small_model

HEADS = {
    "branches": HeadConfig("branches", branches=3),
    "filip": HeadConfig("filip"),
    "pacl": HeadConfig("pacl"),
    "flair": HeadConfig("flair"),
    "llip": HeadConfig("llip", mixtures=4),
    "fusion": HeadConfig("fusion", layers=1, score_cosine=0.5),
}


def with_head(tmp_path, name):
    return randomised(convert_head(of_open_clip(tmp_path), HEADS[name]), std=0.2)


@pytest.mark.parametrize("name", [name for name in HEADS if name != "branches"])
def test_dense_scores_are_the_heads_scores(name, tmp_path):
    model = with_head(tmp_path, name)
    tokens = model.tokenizer.encode(TEXTS)
    with torch.no_grad():
        image = model.encode_images(pixels(), model.score_needs)
        text = model.encode_texts(tokens.tokens_NL, tokens.length_N, model.score_needs)
        assert distance(dense_score(model.head, image, text), model.score(image, text)) < 1e-5


def run(folder, name, **inputs):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(folder / f"{name}.onnx"))
    return dict(zip([o.name for o in session.get_outputs()], map(torch.from_numpy, session.run(None, inputs)), strict=True))


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """A model with branches, the folder that it is exported to, and how far off its graphs are."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("branches")
    model = with_head(folder, "branches")
    return model, folder, export_model(model, folder / "out", "onnx")


@pytest.mark.slow
@pytest.mark.xdist_group("onnx")
def test_branches_and_texts_of_any_number_and_length(branches):
    model, tmp_path, distances = branches
    assert set(distances) == {"image", "branches", "text"}
    here = str(Path(torch.__file__).parent).encode()
    assert [path.name for path in (tmp_path / "out").glob("*.onnx") if here in path.read_bytes()] == []
    assert max(distances.values()) <= 1e-5
    tokens = load_tokenizer(tmp_path / "out").encode(["a " * 70, "cat"])
    images = pixels(count=7)
    with torch.no_grad():
        seen, read = model.encode_images(images), model.encode_texts(tokens.tokens_NL, tokens.length_N)
    out = run(tmp_path / "out", "image", pixels=images.numpy())
    assert out["branches"].shape == (7, 3, 16)
    assert distance(out["branches"], seen.branches_BHD) < 1e-5
    assert distance(out["image"], seen.pooled_BD) < 1e-5
    rows = tokens.tokens_NL.clone()
    rows[1, 3:] = 400  # beyond a text's length anything may stand
    assert (
        distance(run(tmp_path / "out", "text", tokens=rows.numpy(), length=tokens.length_N.numpy())["text"], read.pooled_ND)
        < 1e-5
    )
    settings = json.loads((tmp_path / "out/wholegrain_onnx.json").read_text())
    assert settings["preprocess"] == model.preprocess.to_json()
    assert settings["scale"] == pytest.approx(model.scale.item())


@pytest.mark.slow
def test_a_text_tower_that_reads_its_padding(tmp_path):
    pytest.importorskip("onnxscript")
    model = of_transformers(tmp_path, "siglip")
    assert max(export_model(model, tmp_path / "out", "onnx").values()) <= 1e-5
    assert json.loads((tmp_path / "out/wholegrain_onnx.json").read_text())["bias"] == pytest.approx(model.bias.item())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["filip", "fusion", "flair"])
def test_joint_scores(name, tmp_path):
    pytest.importorskip("onnxscript")
    distances = export_model(with_head(tmp_path, name), tmp_path / "out", "onnx")
    assert distances["score"] <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_the_preset_with_a_transformer(pool, tmp_path):
    pytest.importorskip("onnxscript")
    model = small_model(SmallConfig(**{**CONFIG.__dict__, "reader": "transformer", "text_pool": pool}), TOKENIZER)
    assert max(export_model(model, tmp_path / "out", "onnx").values()) <= 1e-5


def test_a_recurrent_reader_is_named(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match="recurrent reader"):
        export_model(small(), tmp_path / "out", "onnx")


@pytest.mark.slow
@pytest.mark.xdist_group("onnx")
def test_int8_graphs_are_smaller_and_near(branches):
    model, tmp_path, _ = branches
    image, text = write_int8(model, tmp_path / "out")
    assert min(image, text) > 0.98
    for side in ("image", "text"):
        whole, small = (tmp_path / "out" / f"{side}{kind}.onnx" for kind in ("", INT8))
        assert small.stat().st_size < whole.stat().st_size
    exact, near = OnnxModel(tmp_path / "out"), OnnxModel(tmp_path / "out", INT8)
    images, tokens = pixels(count=5), exact.tokenizer.encode(["a red cup", "a hat"])
    with torch.no_grad():
        seen, read = model.encode_images(images), model.encode_texts(tokens.tokens_NL, tokens.length_N)
    found = exact.encode_images(images)
    assert distance(found.pooled_BD, seen.pooled_BD) < 1e-5
    assert distance(found.branches_BHD, seen.branches_BHD) < 1e-5
    assert distance(exact.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND, read.pooled_ND) < 1e-5
    assert not torch.equal(near.encode_images(images).pooled_BD, found.pooled_BD)
    sample = Sample.of(model, 16)
    given = sample.tokens.tokens_NL, sample.tokens.length_N
    with torch.no_grad():
        ours = cosine_similarity(near.encode_images(sample.pixels_BCHW).pooled_BD, model.encode_images(sample.pixels_BCHW).pooled_BD)
        theirs = cosine_similarity(near.encode_texts(*given).pooled_ND, model.encode_texts(*given).pooled_ND)
    assert (image, text) == pytest.approx((ours.mean().item(), theirs.mean().item()), abs=1e-6)
    assert max(image, text) < 1 - 1e-6
    alone, together = near.encode_images(images[:1]).pooled_BD, near.encode_images(images).pooled_BD[:1]
    assert 1e-6 < distance(alone, together) < 0.2  # as the documentation says


def test_int8_is_refused_where_it_cannot_be_measured(tmp_path):
    with pytest.raises(UserError, match="--to onnx"):
        check_int8(of_open_clip(tmp_path), "transformers")
    with pytest.raises(UserError, match="joint score of its filip head"):
        check_int8(with_head(tmp_path, "filip"), "onnx")
